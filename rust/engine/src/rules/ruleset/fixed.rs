//! Chains that do not depend on any Service, and the tail of the one that mostly does.

use std::net::{IpAddr, Ipv6Addr};

use super::context::Context;
use super::node_facts::NodePortsOn;
use crate::model::address::{Family, Net};
use crate::model::names::{ChainId, FixedChain};
use crate::rules::matches::{Comment, Counter, CtState, Match, Negatable, Side};
use crate::rules::rule::{Rule, Target};

fn comment(text: &str) -> Rule {
    Rule::commented(Comment::new(&[text]))
}

/// Returns the rules of a fixed chain that is not a dispatch chain.
pub(crate) fn fixed_rules(ctx: &Context<'_>, chain: FixedChain) -> Vec<Rule> {
    let mark = ctx.options.masquerade_mark;
    let marked = |negated| Match::Mark { negated, value: mark, mask: mark };
    match chain {
        FixedChain::Postrouting => vec![
            Rule::default().with(marked(true)).target(Target::Return),
            // The mark is cleared, so that an encapsulated copy of the packet is not masqueraded again.
            Rule::default().target(Target::SetXmark { value: mark, mask: 0 }),
            comment("kubernetes service traffic requiring SNAT")
                .target(Target::Masquerade { random_fully: ctx.options.masquerade_random_fully }),
        ],
        FixedChain::MarkMasq => vec![Rule::default().target(Target::SetXmark { value: mark, mask: mark })],
        FixedChain::Forward => {
            let mut rules = Vec::with_capacity(3);
            // conntrack does not un-NAT an INVALID packet. Forwarded unchanged, it would make the client reset the
            // connection. With liberal tracking such packets stay in their flow, so they need not be dropped.
            if !ctx.options.conntrack_tcp_be_liberal {
                let mut drop = Rule::default().with(Match::Conntrack(Negatable::is(CtState::Invalid)));
                if ctx.options.nfacct_invalid_dropped {
                    drop = drop.with(Match::Nfacct(Counter::InvalidDropped));
                }
                rules.push(drop.target(Target::Drop));
            }
            rules.push(comment("kubernetes forwarding rules").with(marked(false)).target(Target::Accept));
            rules.push(
                comment("kubernetes forwarding conntrack rule")
                    .with(Match::Conntrack(Negatable::is(CtState::RelatedEstablished)))
                    .target(Target::Accept),
            );
            rules
        }
        // Canaries are empty: only their existence matters. Dispatch chains are written from their Services.
        _ => Vec::new(),
    }
}

/// Returns the rules at the end of nat KUBE-SERVICES: traffic that matches no Service address may be for a node port.
pub(crate) fn dispatch_tail(ctx: &Context<'_>) -> Vec<Rule> {
    let tail = || comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain");
    let to_node_ports = |rule: Rule| rule.jump(ChainId::Fixed(FixedChain::NatNodePorts));
    match &ctx.facts.node_ports_on {
        NodePortsOn::Everywhere => {
            let mut rule = tail();
            if !ctx.facts.localhost_node_ports {
                let loopback = match ctx.family {
                    Family::V4 => Net::new(IpAddr::from([127, 0, 0, 0]), 8),
                    Family::V6 => Net::host(IpAddr::V6(Ipv6Addr::LOCALHOST)),
                };
                rule = rule.to(Negatable::not(loopback));
            }
            vec![to_node_ports(rule.with(Match::LocalAddress(Side::Destination)))]
        }
        NodePortsOn::Only(ips) => {
            ips.iter().map(|&ip| to_node_ports(tail().to(Negatable::is(Net::host(ip))))).collect()
        }
    }
}
