//! The node's own Node: its zone, addresses and Pod networks, and whether load balancers should use it. Other Nodes are
//! never stored.

use std::net::IpAddr;

use crate::input::problem::Problems;
use crate::input::wire::{NodeWire, Text};
use crate::model::address::{Family, Net, parse_ip};

/// The cluster autoscaler sets this taint on a Node that it removes: load balancers should stop sending to it.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// The parts of the Node that rules depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<Box<str>>,
    /// First address of each family, InternalIPs before ExternalIPs.
    pub(crate) ips: [Option<IpAddr>; 2],
    /// First Pod CIDR of each family.
    pub(crate) pod_cidrs: [Option<Net>; 2],
}

/// The node's own Node object, as far as this process depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNode {
    pub(crate) rules: Node,
    /// Every `InternalIP`, then every `ExternalIP`, in the object's order.
    pub addresses: Vec<IpAddr>,
    /// Neither being deleted nor leaving: load balancers should use the node.
    pub eligible: bool,
}

impl OwnNode {
    pub(crate) fn build(wire: &NodeWire<'_>, problems: &mut Problems<'_>) -> Self {
        let zone = wire.metadata.labels.as_ref().and_then(|l| l.zone.as_ref());
        let addresses = addresses(wire, problems);
        let mut ips = [None; 2];
        for &ip in &addresses {
            ips[Family::of(ip).index()].get_or_insert(ip);
        }
        let rules = Node { zone: zone.map(|z| z.as_str().into()), ips, pod_cidrs: pod_cidrs(wire, problems) };
        let taints = wire.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let leaving = taints.iter().any(|taint| taint.key.as_ref().map(Text::as_str) == Some(LEAVING_TAINT));
        let deleting = wire.metadata.deletion_timestamp.is_some_and(|time| time.get() != "\"\"");
        Self { rules, addresses, eligible: !leaving && !deleting }
    }

    /// Returns the node's own addresses, at most one of each family, the primary family first: as kube-proxy takes them.
    #[must_use]
    pub fn node_ips(&self) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = Vec::with_capacity(2);
        for &ip in &self.addresses {
            if !found.iter().any(|known| Family::of(*known) == Family::of(ip)) {
                found.push(ip);
            }
        }
        found
    }

    /// Returns the first Pod network of each family, in canonical form.
    #[must_use]
    pub fn pod_cidrs(&self) -> Vec<String> {
        self.rules.pod_cidrs.iter().flatten().map(ToString::to_string).collect()
    }
}

fn addresses(wire: &NodeWire<'_>, problems: &mut Problems<'_>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let entries = wire.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    for wanted in ["InternalIP", "ExternalIP"] {
        for (i, address) in entries.iter().enumerate() {
            if address.type_.as_ref().map(Text::as_str) != Some(wanted) {
                continue;
            }
            let text = address.address.as_ref().map_or("", Text::as_str);
            match parse_ip(text) {
                Ok(ip) => found.push(ip),
                Err(e) => problems.ignore(format!("status.addresses[{i}].address"), &text, e.to_string()),
            }
        }
    }
    found
}

fn pod_cidrs(wire: &NodeWire<'_>, problems: &mut Problems<'_>) -> [Option<Net>; 2] {
    let mut found = [None; 2];
    let spec = wire.spec.as_ref();
    let list = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
    let single = spec.and_then(|s| s.pod_cidr.as_ref()).filter(|text| list.is_empty() && !text.as_str().is_empty());
    for (i, text) in single.into_iter().chain(list).enumerate() {
        match Net::parse(text.as_str()) {
            Ok(net) => _ = found[net.family().index()].get_or_insert(net),
            Err(e) => problems.ignore(format!("spec.podCIDRs[{i}]"), &text.as_str(), e.to_string()),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(json: &str) -> (OwnNode, usize) {
        let object = || "Node n".to_owned();
        let mut problems = Problems::new(&object);
        let node = OwnNode::build(&serde_json::from_str(json).unwrap(), &mut problems);
        (node, problems.into_vec().len())
    }

    #[test]
    fn node_ips_are_those_that_kube_proxy_takes() {
        for (addresses, expected, problems) in [
            (&[][..], &[][..], 0),
            (&[("Hostname", "n"), ("ExternalIP", "203.0.113.1"), ("InternalIP", "192.0.2.1")], &["192.0.2.1"], 0),
            (&[("InternalIP", "fd00::1"), ("InternalIP", "192.0.2.1")], &["fd00::1", "192.0.2.1"], 0),
            (
                &[("InternalIP", "192.0.2.1"), ("InternalIP", "192.0.2.2"), ("ExternalIP", "fd00::9")],
                &["192.0.2.1", "fd00::9"],
                0,
            ),
            (&[("InternalIP", "no address"), ("ExternalIP", "203.0.113.1")], &["203.0.113.1"], 1),
            (&[("InternalIP", "::ffff:192.0.2.1"), ("ExternalIP", "192.0.2.1")], &["192.0.2.1"], 0),
        ] {
            let entries: Vec<String> = addresses
                .iter()
                .map(|(type_, address)| format!(r#"{{"type":"{type_}","address":"{address}"}}"#))
                .collect();
            let (node, found) = build(&format!(r#"{{"status":{{"addresses":[{}]}}}}"#, entries.join(",")));
            let ips: Vec<String> = node.node_ips().iter().map(ToString::to_string).collect();
            assert_eq!((ips, found), (expected.iter().map(ToString::to_string).collect(), problems), "{addresses:?}");
        }
    }

    #[test]
    fn a_node_that_leaves_or_is_deleted_is_not_eligible() {
        for (json, eligible) in [
            ("{}", true),
            (r#"{"spec":{"taints":null},"metadata":{"deletionTimestamp":null}}"#, true),
            (r#"{"spec":{"taints":[{"key":"node.kubernetes.io/unreachable"}]}}"#, true),
            (
                r#"{"spec":{"taints":[{"key":"a"},{"key":"ToBeDeletedByClusterAutoscaler","effect":"NoSchedule"}]}}"#,
                false,
            ),
            (r#"{"metadata":{"deletionTimestamp":"2026-11-23T21:57:53Z"}}"#, false),
            (r#"{"metadata":{"deletionTimestamp":""}}"#, true),
        ] {
            assert_eq!(build(json).0.eligible, eligible, "{json}");
        }
    }

    #[test]
    fn pod_cidrs_are_the_first_of_each_family() {
        for (spec, expected, problems) in [
            ("{}", &[][..], 0),
            (r#"{"podCIDR":""}"#, &[], 0),
            (r#"{"podCIDR":"10.2.0.0/24"}"#, &["10.2.0.0/24"], 0),
            (r#"{"podCIDR":"10.2.0.0/24","podCIDRs":["10.1.0.0/24"]}"#, &["10.1.0.0/24"], 0),
            (r#"{"podCIDRs":["nonsense","fd00::1/64","10.1.0.0/24","10.3.0.0/24"]}"#, &["10.1.0.0/24", "fd00::/64"], 1),
        ] {
            let (node, found) = build(&format!(r#"{{"spec":{spec}}}"#));
            assert_eq!((node.pod_cidrs(), found), (expected.iter().map(ToString::to_string).collect(), problems));
        }
    }
}
