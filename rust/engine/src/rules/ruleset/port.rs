//! The chains of one service port: balancing (SVC, SVL), outside traffic (EXT), source ranges (FW), endpoints (SEP).

use super::backend::Backend;
use super::balance::balance;
use super::context::{Context, PortView, Sink};
use crate::model::address::Net;
use crate::model::names::{ChainId, FixedChain, Prefix};
use crate::model::topology::{Pick, Reach};
use crate::rules::matches::{Comment, Match, Negatable, Side};
use crate::rules::rule::{Rule, Target};

const MARK_MASQ: ChainId = ChainId::Fixed(FixedChain::MarkMasq);

/// Writes every chain that this port needs now.
pub(crate) fn port_chains(
    ctx: &Context<'_>,
    view: &PortView<'_>,
    reach: Reach,
    picks: &[Pick<'_>],
    sink: &mut impl Sink,
) {
    if !reach.any {
        return;
    }
    let mut backends: Vec<Backend> = picks
        .iter()
        .map(|pick| {
            let text = pick.candidate.text();
            let hash = view.name.endpoint_hash(&text);
            Backend {
                chain: ChainId::Hashed(Prefix::Sep, hash),
                hash,
                text,
                address: pick.candidate.address(),
                in_cluster: pick.in_cluster,
                in_local: pick.in_local,
            }
        })
        .collect();
    backends.sort_unstable_by(|a, b| a.text.cmp(&b.text));

    let mut rules = Vec::with_capacity(2 * backends.len() + 1);
    for backend in &backends {
        endpoint_rules(ctx, view, backend, &mut rules);
        sink.chain(backend.chain, &rules);
        rules.clear();
    }
    for (prefix, used, member) in [
        (Prefix::Svc, view.policies.use_cluster() && reach.cluster, (|b| b.in_cluster) as fn(&Backend) -> bool),
        (Prefix::Svl, view.policies.use_local() && reach.local, |b| b.in_local),
    ] {
        if !used {
            continue;
        }
        let chain = view.chain(prefix);
        if chain == view.internal_chain() {
            rules.extend(masquerade_cluster_ip(ctx, view));
        }
        let members: Vec<&Backend> = backends.iter().filter(|b| member(b)).collect();
        balance(ctx, view, chain, &members, &mut rules, sink);
        sink.chain(chain, &rules);
        rules.clear();
    }
    if view.policies.externally_accessible {
        external_rules(ctx, view, reach, &mut rules);
        sink.chain(view.chain(Prefix::Ext), &rules);
        rules.clear();
    }
    if let Some(ranges) = view.firewall(ctx.family) {
        firewall_rules(ctx, view, &ranges, &mut rules);
        sink.chain(view.chain(Prefix::Fw), &rules);
    }
}

/// Appends the rules of a SEP chain. An endpoint that reaches itself through its Service must be masqueraded, or it
/// would answer itself directly.
fn endpoint_rules(ctx: &Context<'_>, view: &PortView<'_>, backend: &Backend, rules: &mut Vec<Rule>) {
    let start = || {
        if ctx.large { Rule::default() } else { Rule::commented(Comment::new(&[view.name.as_str()])) }
    };
    rules.push(start().from(Negatable::is(Net::host(backend.address.ip()))).jump(MARK_MASQ));
    let mut dnat = start();
    if view.service.affinity.is_some() {
        dnat = dnat.with(Match::RecentSet { list: backend.chain });
    }
    rules.push(dnat.port(view.port.protocol, None).target(Target::Dnat(backend.address)));
}

/// Returns the first rule of the internal chain, if it is needed: cluster IP traffic that does not come from a Pod of
/// this node is masqueraded, because replies may not be routed back through this node.
fn masquerade_cluster_ip(ctx: &Context<'_>, view: &PortView<'_>) -> Option<Rule> {
    let rule = Rule::commented(Comment::new(&[view.name.as_str(), " cluster IP"]))
        .to(Negatable::is(Net::host(view.cluster_ip)))
        .port(view.port.protocol, Some(view.port.port))
        .jump(MARK_MASQ);
    if ctx.options.masquerade_all {
        return Some(rule);
    }
    ctx.facts.detector.as_ref().map(|d| d.not_local(rule))
}

/// Appends the rules of an EXT chain: traffic to node ports, external and load-balancer IPs.
fn external_rules(ctx: &Context<'_>, view: &PortView<'_>, reach: Reach, rules: &mut Vec<Rule>) {
    let commented = |prefix: &str| {
        Rule::commented(Comment::new(&[prefix, " traffic for ", view.name.as_str(), " external destinations"]))
    };
    let cluster = view.chain(Prefix::Svc);
    if view.policies.external_local {
        // This node's own Pods and processes are not external clients: the purpose of the policy (keeping the client's
        // address, avoiding a hop) does not apply to them, so they use the cluster set.
        if let Some(detector) = &ctx.facts.detector {
            rules.push(detector.local(commented("pod")).jump(cluster));
        }
        let from_node = |prefix| commented(prefix).with(Match::LocalAddress(Side::Source));
        rules.push(from_node("masquerade LOCAL").jump(MARK_MASQ));
        rules.push(from_node("route LOCAL").jump(cluster));
    } else {
        rules.push(commented("masquerade").jump(MARK_MASQ));
    }
    if !view.policies.external_local || reach.local {
        rules.push(Rule::default().jump(view.external_chain()));
    }
}

/// Appends the rules of a FW chain: allowed ranges are accepted; all other traffic returns and is dropped in filter.
fn firewall_rules(ctx: &Context<'_>, view: &PortView<'_>, ranges: &[Net], rules: &mut Vec<Rule>) {
    let external = view.chain(Prefix::Ext);
    let allow = |net| {
        Rule::commented(Comment::new(&[view.name.as_str(), " loadbalancer IP"])).from(Negatable::is(net)).jump(external)
    };
    rules.extend(ranges.iter().map(|&net| allow(net)));
    // A node in range reaches the address through this chain, where its source may already be the LB IP.
    if ctx.facts.node_ip.is_some_and(|ip| ranges.iter().any(|net| net.contains(ip))) {
        rules.extend(view.service.load_balancer_ips_of(ctx.family).map(|ip| allow(Net::host(ip))));
    }
    let rest = ["other traffic to ", view.name.as_str(), " will be dropped by KUBE-PROXY-FIREWALL"];
    rules.push(Rule::commented(Comment::new(&rest)));
}
