//! Dispatch rules: one service port's rules in the six dispatch chains, which send a packet to its Service or reject
//! it.

use std::net::IpAddr;

use super::context::{Context, PortView};
use crate::model::address::Net;
use crate::model::claims::Claim;
use crate::model::names::{FixedChain, Prefix, Table};
use crate::model::topology::Reach;
use crate::rules::matches::{Comment, Counter, Match, Negatable, Side};
use crate::rules::rule::{Rule, Target};

/// Why traffic is refused.
enum Refusal {
    /// No endpoint on any node: the client receives an immediate refusal.
    NoEndpoints,
    /// Only endpoints on other nodes: dropped silently, so that a load balancer's retry may reach one of those nodes.
    NoLocalEndpoints,
}

impl Refusal {
    fn of(reach: Reach, local_only: bool) -> Option<Self> {
        match (reach.any, local_only && !reach.local) {
            (false, _) => Some(Self::NoEndpoints),
            (true, true) => Some(Self::NoLocalEndpoints),
            (true, false) => None,
        }
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::NoEndpoints => " has no endpoints",
            Self::NoLocalEndpoints => " has no local endpoints",
        }
    }

    fn apply(&self, rule: Rule) -> Rule {
        rule.target(match self {
            Self::NoEndpoints => Target::Reject,
            Self::NoLocalEndpoints => Target::Drop,
        })
    }
}

/// Calls `emit` with every dispatch rule of a service port, in the order they must keep among themselves.
pub(crate) fn dispatch_rules(
    ctx: &Context<'_>,
    view: &PortView<'_>,
    reach: Reach,
    emit: &mut dyn FnMut(FixedChain, Rule),
) {
    let (protocol, port) = (view.port.protocol, view.port.port);
    let name = view.name.as_str();
    let owns = |ip: IpAddr| ctx.claims.owns(Claim::Address(ip, protocol, port), view.name);
    let commented = |suffix: &str| Rule::commented(Comment::new(&[name, suffix]));
    let to_address =
        |suffix: &str, ip: IpAddr| commented(suffix).to(Negatable::is(Net::host(ip))).port(protocol, Some(port));

    if owns(view.cluster_ip) {
        match Refusal::of(reach, view.policies.internal_local) {
            None => {
                let rule = to_address(" cluster IP", view.cluster_ip).jump(view.internal_chain());
                emit(FixedChain::NatServices, rule);
            }
            Some(refusal) => {
                emit(FixedChain::FilterServices, refusal.apply(to_address(refusal.reason(), view.cluster_ip)));
            }
        }
    }

    let refusal = Refusal::of(reach, view.policies.external_local);
    let external = view.chain(Prefix::Ext);
    for ip in view.service.external_ips_of(ctx.family).filter(|&ip| owns(ip)) {
        if reach.any {
            emit(FixedChain::NatServices, to_address(" external IP", ip).jump(external));
        }
        if let Some(refusal) = &refusal {
            emit(FixedChain::ExternalServices, refusal.apply(to_address(refusal.reason(), ip)));
        }
    }

    let restricted = view.firewall(ctx.family).is_some();
    for ip in view.service.load_balancer_ips_of(ctx.family).filter(|&ip| owns(ip)) {
        if reach.any {
            let next = if restricted { view.chain(Prefix::Fw) } else { external };
            emit(FixedChain::NatServices, to_address(" loadbalancer IP", ip).jump(next));
            if restricted {
                let suffix = [" traffic not accepted by ", &next.name()].concat();
                emit(FixedChain::ProxyFirewall, to_address(&suffix, ip).target(Target::Drop));
            }
        }
        if let Some(refusal) = &refusal {
            emit(FixedChain::ExternalServices, refusal.apply(to_address(refusal.reason(), ip)));
        }
    }

    if let Some(node_port) = view.port.node_port.filter(|&n| ctx.claims.owns(Claim::NodePort(protocol, n), view.name)) {
        if reach.any {
            if ctx.facts.localhost_node_ports && ctx.options.nfacct_localhost_accepted {
                let loopback = Net::new(IpAddr::from([127, 0, 0, 0]), 8);
                let rule = commented("").to(Negatable::is(loopback)).port(protocol, Some(node_port));
                emit(FixedChain::NatNodePorts, rule.with(Match::Nfacct(Counter::LocalhostAccepted)).jump(external));
            }
            emit(FixedChain::NatNodePorts, commented("").port(protocol, Some(node_port)).jump(external));
        }
        if let Some(refusal) = &refusal {
            let rule = commented(refusal.reason()).with(Match::LocalAddress(Side::Destination));
            emit(FixedChain::ExternalServices, refusal.apply(rule.port(protocol, Some(node_port))));
        }
    }

    // Accepted with and without endpoints, because the load balancer needs the answer "none here".
    if let Some(port) = view.service.health_check_port {
        let rule = commented(" health check node port").port(crate::model::names::Protocol::Tcp, Some(port));
        emit(FixedChain::FilterNodePorts, rule.target(Target::Accept));
    }
}

/// Returns the key for which the order of two rules in a dispatch chain matters; `None` if order does not matter in
/// this table. In nat, the first rule that a packet matches decides; in filter, all rules of one destination have the
/// same effect.
pub(crate) fn rank_key(table: Table, claim: Option<Claim>) -> Option<Claim> {
    claim.filter(|_| table == Table::Nat)
}
