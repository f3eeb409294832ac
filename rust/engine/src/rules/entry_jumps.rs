//! Jump rules from the kernel's built-in chains into ours, and the one rule we keep in kubelet's KUBE-FIREWALL.
//!
//! They stand in chains that others use too, so they are never rewritten: each is looked for and, if missing,
//! inserted at the top, in this order (which leaves the later ones first).

use std::net::IpAddr;

use crate::model::address::{Family, Net};
use crate::model::names::{ChainId, FixedChain, Table};
use crate::rules::matches::{Comment, CtState, Match, Negatable};
use crate::rules::rule::{Rule, Target};

/// kubelet's chain as much as ours: created if missing, never flushed, never deleted.
pub(crate) const FIREWALL: &str = "KUBE-FIREWALL";

/// A rule that must stand in somebody else's chain.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub(crate) table: Table,
    pub(crate) chain: &'static str,
    pub(crate) rule: Rule,
}

/// All hooks of a family. `localhost_node_ports` asks for the guard that keeps outsiders from 127.0.0.0/8 once
/// `route_localnet` is on (CVE-2020-8558).
pub(crate) fn hooks(family: Family, localhost_node_ports: bool) -> Vec<Hook> {
    let new = |rule: Rule| rule.with(Match::Conntrack(Negatable::is(CtState::New)));
    let comment = |text: &str| Match::Comment(Comment::new(&[text]));
    let jump = |chain: &'static str, to: FixedChain, only_new: bool, text: &str| {
        let start = if only_new { new(Rule::default()) } else { Rule::default() };
        Hook { table: to.table(), chain, rule: start.with(comment(text)).jump(ChainId::Fixed(to)) }
    };
    let mut hooks = vec![
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
        hooks.push(Hook { table: Table::Filter, chain, rule });
    }
    if localhost_node_ports && family == Family::V4 {
        let loopback = Net::new(IpAddr::from([127, 0, 0, 0]), 8);
        let rule = Rule::commented(Comment::new(&["block incoming localnet connections"]))
            .to(Negatable::is(loopback))
            .from(Negatable::not(loopback))
            .with(Match::Conntrack(Negatable::not(CtState::RelatedEstablishedDnat)))
            .target(Target::Drop);
        hooks.push(Hook { table: Table::Filter, chain: FIREWALL, rule });
    }
    hooks
}
