//! EndpointSlices: the ports and endpoints of a slice, decoded and validated.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use crate::input::problem::Problems;
use crate::input::service::port_number;
use crate::input::wire::{EndpointWire, SliceWire, Text};
use crate::model::address::{Family, parse_ip};
use crate::model::names::Protocol;

/// The parts of an `EndpointSlice` that rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// `ns/name` of the slice's Service.
    pub(crate) service: Arc<str>,
    pub(crate) family: Family,
    pub(super) ports: Box<[SlicePort]>,
    pub(super) endpoints: Box<[Endpoint]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePort {
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// One address with its conditions and topology from the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    pub(crate) state: State,
    /// Zones that should use it; empty when there is no hint.
    pub(crate) zones: Box<[Box<str>]>,
    pub(crate) node_hint: NodeHint,
}

/// The endpoint's conditions, and whether it runs on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // the API's own conditions, independent of each other
pub(crate) struct State {
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) local: bool,
}

impl State {
    /// Returns whether the endpoint terminates but still serves: used only where none is ready.
    pub(crate) const fn is_draining(self) -> bool {
        self.serving && self.terminating
    }

    /// Returns the sort key for preferring one entry of an address to another; the least is the most usable.
    pub(super) const fn preference(self) -> impl Ord {
        let unusable = !self.ready && !self.is_draining();
        (Reverse(self.ready), unusable, Reverse(self.local), self.terminating, Reverse(self.serving))
    }
}

/// `hints.forNodes`, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NodeHint {
    None,
    Ours,
    Other,
}

impl Slice {
    /// Builds a slice. Returns `None` for slices that a proxy ignores: headless, FQDN, or without a Service name (which
    /// is reported).
    pub(crate) fn build(
        wire: &SliceWire<'_>,
        namespace: &str,
        node: &str,
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let labels = wire.metadata.labels.as_ref();
        if labels.is_some_and(|l| l.headless) {
            return None;
        }
        let family = match wire.address_type.as_ref().map_or("", Text::as_str) {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            "FQDN" => return None,
            other => {
                problems.ignore("addressType", &other, "is not one of IPv4, IPv6, FQDN: the slice is ignored");
                return None;
            }
        };
        let Some(service) = labels.and_then(|l| l.service_name.as_ref()).filter(|n| !n.as_str().is_empty()) else {
            problems.ignore(
                "metadata.labels[kubernetes.io/service-name]",
                &"",
                "is missing: the slice belongs to no Service",
            );
            return None;
        };
        let ports = wire.ports.as_deref().unwrap_or_default();
        let endpoints = wire.endpoints.as_deref().unwrap_or_default();
        Some(Self {
            service: [namespace, "/", service.as_str()].concat().into(),
            family,
            ports: ports.iter().enumerate().filter_map(|(i, p)| slice_port(i, p, problems)).collect(),
            endpoints: endpoints
                .iter()
                .enumerate()
                .filter_map(|(i, e)| endpoint(i, e, family, node, problems))
                .collect(),
        })
    }
}

impl Slice {
    /// Returns the addresses of ready endpoints on this node.
    pub(crate) fn local_ready(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().filter(|e| e.state.local && e.state.ready).map(|e| e.ip)
    }
}

fn slice_port(i: usize, wire: &crate::input::wire::PortWire<'_>, problems: &mut Problems<'_>) -> Option<SlicePort> {
    let field = || format!("ports[{i}]");
    let Some(number) = wire.port.filter(|&n| n != 0) else {
        problems.ignore(
            field() + ".port",
            &"null",
            "means all ports, which no Service rule can express: it is ignored",
        );
        return None;
    };
    let protocol_text = wire.protocol.as_ref().map_or("TCP", Text::as_str);
    let Some(protocol) = Protocol::parse(protocol_text) else {
        problems.ignore(field() + ".protocol", &protocol_text, "is not one of TCP, UDP, SCTP: the port is ignored");
        return None;
    };
    let port = port_number(field() + ".port", number, problems)?;
    Some(SlicePort { name: wire.name.as_ref().map_or("", Text::as_str).into(), protocol, port })
}

fn endpoint(
    i: usize,
    wire: &EndpointWire<'_>,
    family: Family,
    node: &str,
    problems: &mut Problems<'_>,
) -> Option<Endpoint> {
    let field = || format!("endpoints[{i}].addresses[0]");
    // The API defines only the first address; all others are ignored.
    let Some(text) = wire.addresses.as_ref().and_then(|a| a.first()).map(Text::as_str) else {
        problems.ignore(format!("endpoints[{i}].addresses"), &"", "is empty: the endpoint is ignored");
        return None;
    };
    let ip = match parse_ip(text) {
        Ok(ip) if Family::of(ip) == family => ip,
        Ok(_) => {
            problems.ignore(field(), &text, format!("is not of the slice's addressType {}", family_type(family)));
            return None;
        }
        Err(e) => {
            problems.ignore(field(), &text, e.to_string());
            return None;
        }
    };
    let conditions = wire.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = wire.hints.as_ref();
    let names = |list: Option<&Vec<crate::input::wire::Named<'_>>>| -> Vec<String> {
        let named = list.map(Vec::as_slice).unwrap_or_default().iter();
        named.filter_map(|n| n.name.as_ref()).map(|n| n.as_str().to_owned()).collect()
    };
    let nodes = names(hints.and_then(|h| h.for_nodes.as_ref()));
    let zones = names(hints.and_then(|h| h.for_zones.as_ref()));
    Some(Endpoint {
        ip,
        state: State {
            ready,
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            local: wire.node_name.as_ref().is_some_and(|n| n.as_str() == node),
        },
        zones: zones.into_iter().map(String::into_boxed_str).collect(),
        node_hint: match nodes.as_slice() {
            [] => NodeHint::None,
            names if names.iter().any(|n| n == node) => NodeHint::Ours,
            _ => NodeHint::Other,
        },
    })
}

const fn family_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
