//! Entry jumps: the jump rules from base chains into ferrule's chains, and its one rule in kubelet's KUBE-FIREWALL.
//!
//! These chains are shared with other programs, so they are never rewritten. A missing jump is inserted at the top, in
//! this order (which leaves the later ones first).

use std::net::IpAddr;

use crate::model::address::{Family, Net};
use crate::model::names::{ChainId, FixedChain, Table};
use crate::rules::matches::{Comment, CtState, Match, Negatable};
use crate::rules::rule::{Rule, Target};

/// A chain shared with kubelet: created if missing, never flushed, never deleted.
pub(crate) const FIREWALL: &str = "KUBE-FIREWALL";

/// A rule that ferrule inserts into a foreign chain, most often a jump from a base chain.
#[derive(Clone, Debug)]
pub(crate) struct EntryJump {
    pub(crate) table: Table,
    pub(crate) chain: &'static str,
    pub(crate) rule: Rule,
}

/// Returns all entry jumps of a family. `localhost_node_ports` adds the guard that drops traffic from other hosts to
/// 127.0.0.0/8 once `route_localnet` is on (CVE-2020-8558).
pub(crate) fn entry_jumps(family: Family, localhost_node_ports: bool) -> Vec<EntryJump> {
    let new = |rule: Rule| rule.with(Match::Conntrack(Negatable::is(CtState::New)));
    let comment = |text: &str| Match::Comment(Comment::new(&[text]));
    let jump = |chain: &'static str, to: FixedChain, only_new: bool, text: &str| {
        let start = if only_new { new(Rule::default()) } else { Rule::default() };
        EntryJump { table: to.table(), chain, rule: start.with(comment(text)).jump(ChainId::Fixed(to)) }
    };
    let mut jumps = vec![
        jump("INPUT", FixedChain::ExternalServices, true, "kubernetes externally-visible service portals"),
        jump("FORWARD", FixedChain::ExternalServices, true, "kubernetes externally-visible service portals"),
        jump("INPUT", FixedChain::FilterNodePorts, false, "kubernetes health check service ports"),
        jump("FORWARD", FixedChain::FilterServices, true, "kubernetes service portals"),
        jump("OUTPUT", FixedChain::FilterServices, true, "kubernetes service portals"),
        jump("FORWARD", FixedChain::Forward, false, "kubernetes forwarding rules"),
        jump("INPUT", FixedChain::ProxyFirewall, true, "kubernetes load balancer firewall"),
        jump("OUTPUT", FixedChain::ProxyFirewall, true, "kubernetes load balancer firewall"),
        jump("FORWARD", FixedChain::ProxyFirewall, true, "kubernetes load balancer firewall"),
        jump("OUTPUT", FixedChain::NatServices, false, "kubernetes service portals"),
        jump("PREROUTING", FixedChain::NatServices, false, "kubernetes service portals"),
        jump("POSTROUTING", FixedChain::Postrouting, false, "kubernetes postrouting rules"),
    ];
    for chain in ["INPUT", "OUTPUT"] {
        let rule = Rule::default().target(Target::JumpFirewall);
        jumps.push(EntryJump { table: Table::Filter, chain, rule });
    }
    if localhost_node_ports && family == Family::V4 {
        let loopback = Net::new(IpAddr::from([127, 0, 0, 0]), 8);
        let rule = Rule::commented(Comment::new(&["block incoming localnet connections"]))
            .to(Negatable::is(loopback))
            .from(Negatable::not(loopback))
            .with(Match::Conntrack(Negatable::not(CtState::RelatedEstablishedDnat)))
            .target(Target::Drop);
        jumps.push(EntryJump { table: Table::Filter, chain: FIREWALL, rule });
    }
    jumps
}
