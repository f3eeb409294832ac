//! Node facts: what one family's rules depend on besides Services and endpoints.

use std::net::IpAddr;

use crate::input::node::Node;
use crate::model::address::{Family, Net};
use crate::model::interface::Interface;
use crate::options::{LocalDetector, NodePortAddress, Options};
use crate::rules::matches::Negatable;
use crate::rules::rule::Rule;

/// How a rule matches traffic of this node's own Pods in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detector {
    Source(Net),
    Interface(Interface),
}

impl Detector {
    /// Restricts a rule to traffic of local Pods.
    pub(crate) fn local(&self, rule: Rule) -> Rule {
        match self {
            Self::Source(net) => rule.from(Negatable::is(*net)),
            Self::Interface(name) => rule.through(Negatable::is(name.clone())),
        }
    }

    /// Restricts a rule to traffic that is not from local Pods.
    pub(crate) fn not_local(&self, rule: Rule) -> Rule {
        match self {
            Self::Source(net) => rule.from(Negatable::not(*net)),
            Self::Interface(name) => rule.through(Negatable::not(name.clone())),
        }
    }
}

/// The addresses on which node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodePortsOn {
    Everywhere,
    Only(Vec<IpAddr>),
}

/// What one family's rules depend on besides Services and endpoints. Compared as a whole: any change may affect every
/// rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) zone: Option<Box<str>>,
    pub(crate) node_ip: Option<IpAddr>,
    pub(crate) detector: Option<Detector>,
    pub(crate) node_ports_on: NodePortsOn,
    /// Whether node ports answer on 127.0.0.1.
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

    /// Returns the number of addresses that node ports answer on; `None` means all.
    pub(crate) const fn node_port_addresses(&self) -> Option<usize> {
        match &self.node_ports_on {
            NodePortsOn::Everywhere => None,
            NodePortsOn::Only(ips) => Some(ips.len()),
        }
    }
}

/// Returns the list as networks of one family. An empty result means all addresses, as in kube-proxy.
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
