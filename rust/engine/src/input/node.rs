//! This node's Node object: its zone, addresses and Pod networks. Other Nodes are ignored and never stored.

use std::net::IpAddr;

use crate::input::problem::Problems;
use crate::input::wire::{NodeWire, Text};
use crate::model::address::{Family, Net, parse_ip};

/// The fields of the Node that rules depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<Box<str>>,
    /// First address of each family, InternalIPs before ExternalIPs.
    pub(crate) ips: [Option<IpAddr>; 2],
    /// First Pod CIDR of each family.
    pub(crate) pod_cidrs: [Option<Net>; 2],
}

impl Node {
    pub(crate) fn build(wire: &NodeWire<'_>, problems: &mut Problems<'_>) -> Self {
        let zone = wire.metadata.labels.as_ref().and_then(|l| l.zone.as_ref());
        let mut node = Self { zone: zone.map(|z| z.as_str().into()), ..Self::default() };

        let addresses = wire.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        for wanted in ["InternalIP", "ExternalIP"] {
            for (i, address) in addresses.iter().enumerate() {
                if address.type_.as_ref().map(Text::as_str) != Some(wanted) {
                    continue;
                }
                let text = address.address.as_ref().map_or("", Text::as_str);
                match parse_ip(text) {
                    Ok(ip) => _ = node.ips[Family::of(ip).index()].get_or_insert(ip),
                    Err(e) => problems.ignore(format!("status.addresses[{i}].address"), &text, e.to_string()),
                }
            }
        }

        let spec = wire.spec.as_ref();
        let list = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
        let single = spec.and_then(|s| s.pod_cidr.as_ref()).filter(|_| list.is_empty());
        for (i, text) in single.into_iter().chain(list).enumerate() {
            match Net::parse(text.as_str()) {
                Ok(net) => _ = node.pod_cidrs[net.family().index()].get_or_insert(net),
                Err(e) => problems.ignore(format!("spec.podCIDRs[{i}]"), &text.as_str(), e.to_string()),
            }
        }
        node
    }
}
