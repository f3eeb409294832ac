//! The proxy semantics, and nothing else: which rules stand in which chain for a given state of the cluster.
//!
//! Rules leave through a [`Sink`], chain by chain, as typed values: what becomes of them (restore text, a digest, one
//! day netlink messages) is not decided here. `docs/design/rules.md` lists the chains and the decisions behind them.

mod balance;
mod dispatch;
mod fixed;
mod port;

use std::net::IpAddr;

use crate::input::node::Node;
use crate::input::service::{Service, ServicePort};
use crate::model::address::{Family, Net};
use crate::model::claims::Claims;
use crate::model::interface::Interface;
use crate::model::names::{ChainId, NameHash, PortName, Prefix};
use crate::model::topology::Policies;
use crate::options::{LocalDetector, NodePortAddress, Options};
use crate::rules::matches::Negatable;
use crate::rules::rule::Rule;

pub(crate) use dispatch::{dispatch_rules, rank_key};
pub(crate) use fixed::{dispatch_tail, fixed_rules};
pub(crate) use port::port_chains;

/// Takes finished chains.
pub(crate) trait Sink {
    /// One whole chain; the slice is only valid during the call. Parts of a balancing chain come before whoever jumps
    /// there.
    fn chain(&mut self, id: ChainId, rules: &[Rule]);
}

/// How a rule tells this node's own Pods by one family's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detector {
    Source(Net),
    Interface(Interface),
}

impl Detector {
    /// Only local Pods' traffic.
    pub(crate) fn local(&self, rule: Rule) -> Rule {
        match self {
            Self::Source(net) => rule.from(Negatable::is(*net)),
            Self::Interface(name) => rule.through(Negatable::is(name.clone())),
        }
    }

    /// Everything else.
    pub(crate) fn not_local(&self, rule: Rule) -> Rule {
        match self {
            Self::Source(net) => rule.from(Negatable::not(*net)),
            Self::Interface(name) => rule.through(Negatable::not(name.clone())),
        }
    }
}

/// Where node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodePortsOn {
    Everywhere,
    Only(Vec<IpAddr>),
}

/// What one family's rules depend on besides Services and endpoints. Compared as a whole: when it changes, every rule
/// may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) zone: Option<Box<str>>,
    pub(crate) node_ip: Option<IpAddr>,
    pub(crate) detector: Option<Detector>,
    pub(crate) node_ports_on: NodePortsOn,
    /// Node ports answer on 127.0.0.1.
    pub(crate) localhost_node_ports: bool,
}

impl NodeFacts {
    pub(crate) fn of(family: Family, options: &Options, node: &Node, local_addresses: &[IpAddr]) -> Self {
        let node_ip = node.ips[family.index()].or(options.node_ips[family.index()]);
        let detector = match &options.local_detector {
            LocalDetector::None => None,
            LocalDetector::ClusterCidr(nets) => {
                nets.iter().find(|n| n.family() == family).map(|&n| Detector::Source(n))
            }
            LocalDetector::NodeCidr => node.pod_cidrs[family.index()].map(Detector::Source),
            LocalDetector::Bridge(name) | LocalDetector::Prefix(name) => Some(Detector::Interface(name.clone())),
        };
        let nets = node_port_nets(family, &options.node_port_addresses, node_ip);
        let localhost_node_ports =
            options.localhost_node_ports && family == Family::V4 && nets.iter().any(holds_loopback);
        let node_ports_on = if nets.iter().any(Net::is_everything) {
            NodePortsOn::Everywhere
        } else {
            let listed = |ip: &&IpAddr| nets.iter().any(|n| n.contains(**ip));
            let usable = |ip: &&IpAddr| !ip.is_loopback() || localhost_node_ports;
            let mut ips: Vec<IpAddr> = local_addresses.iter().filter(listed).filter(usable).copied().collect();
            ips.sort_unstable();
            ips.dedup();
            NodePortsOn::Only(ips)
        };
        Self { zone: node.zone.clone(), node_ip, detector, node_ports_on, localhost_node_ports }
    }
}

/// The list as networks of one family; none of this family means everywhere, as in kube-proxy.
fn node_port_nets(family: Family, list: &[NodePortAddress], node_ip: Option<IpAddr>) -> Vec<Net> {
    let loopback = match family {
        Family::V4 => Net::new(IpAddr::from([127, 0, 0, 0]), 8),
        Family::V6 => Net::host(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)),
    };
    let everything = match family {
        Family::V4 => Net::new(IpAddr::from([0, 0, 0, 0]), 0),
        Family::V6 => Net::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0),
    };
    let mut nets: Vec<Net> = list
        .iter()
        .filter_map(|entry| match entry {
            NodePortAddress::Net(net) => Some(*net).filter(|n| n.family() == family),
            NodePortAddress::Primary => node_ip.map(Net::host),
            NodePortAddress::Localhost => Some(loopback),
            NodePortAddress::All => Some(everything),
        })
        .collect();
    if nets.is_empty() {
        nets.push(everything);
    }
    nets
}

fn holds_loopback(net: &Net) -> bool {
    net.addr().is_loopback() || net.contains(IpAddr::from([127, 0, 0, 0]))
}

/// Everything a rule generator may look at.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) family: Family,
    pub(crate) options: &'a Options,
    pub(crate) facts: &'a NodeFacts,
    pub(crate) claims: &'a Claims,
    /// More than a thousand endpoints: comments on endpoints are left out.
    pub(crate) large: bool,
}

/// One service port with what its rules are made of.
#[derive(Clone, Copy)]
pub(crate) struct PortView<'a> {
    pub(crate) name: &'a PortName,
    pub(crate) hash: NameHash,
    pub(crate) service: &'a Service,
    pub(crate) port: &'a ServicePort,
    pub(crate) cluster_ip: IpAddr,
    pub(crate) policies: Policies,
}

impl<'a> PortView<'a> {
    pub(crate) fn new(family: Family, name: &'a PortName, service: &'a Service, port: &'a ServicePort) -> Option<Self> {
        let cluster_ip = service.cluster_ips[family.index()]?;
        let policies = Policies {
            internal_local: service.internal_local,
            external_local: service.external_local,
            externally_accessible: service.externally_accessible(family, port),
        };
        Some(Self { name, hash: name.hash(), service, port, cluster_ip, policies })
    }

    fn chain(&self, prefix: Prefix) -> ChainId {
        ChainId::Hashed(prefix, self.hash)
    }

    /// Where traffic to the cluster IP goes.
    fn internal_chain(&self) -> ChainId {
        self.chain(if self.policies.internal_local { Prefix::Svl } else { Prefix::Svc })
    }

    /// Where traffic from outside goes.
    fn external_chain(&self) -> ChainId {
        self.chain(if self.policies.external_local { Prefix::Svl } else { Prefix::Svc })
    }

    /// The chain that load-balancer IPs lead to when source ranges apply, with those ranges.
    fn firewall(&self, family: Family) -> Option<Vec<Net>> {
        self.service.load_balancer_ips_of(family).next()?;
        self.service.source_ranges.of(family)
    }
}
