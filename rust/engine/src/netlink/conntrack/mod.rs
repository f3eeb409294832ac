//! Finds stale conntrack entries of UDP flows.
//!
//! The kernel evaluates the rules only for a flow's first packet. A TCP client notices a dead backend and reconnects. A
//! UDP client that keeps its port (a resolver, a statsd sender) keeps its entry alive and sends to a deleted Pod, or to
//! the untranslated Service address if it started before there were endpoints. Such entries must be deleted.
//!
//! A UDP flow to a Service address is stale if its replies do not come from an endpoint that serves now, whatever
//! policy or topology say: those decide about new flows. A translated flow to an address that belonged to a Service in
//! the previous view is stale, too. A node port without a serving endpoint loses only its translated flows: no rule
//! claims the port then, and a program on the node may answer there itself. All other flows stay: other protocols,
//! other destinations, forwarded flows to a node port's number on another host.
//!
//! [`View`] is a snapshot that does not need the engine, so dumps are judged while the next sync runs. An older view
//! does not judge flows of ports whose endpoints that sync changes ([`ServingEndpoints::retire`]): it would delete flows to
//! endpoints that it does not know.

mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::{HashMap, HashSet};

use crate::model::address::Family;
use crate::model::names::Protocol;
use crate::rules::ruleset::{NodeFacts, NodePortsOn};
use wire::{Flow, FlowMessage, delete_request, messages};

const UDP: u8 = Protocol::Udp.number();

/// The endpoints that may answer the flows of a UDP service port.
#[derive(Debug, Default)]
pub(crate) struct ServingEndpoints {
    /// Every serving endpoint, sorted.
    serving: Box<[SocketAddr]>,
    /// Whether a newer plan has other endpoints.
    retired: AtomicBool,
}

impl ServingEndpoints {
    /// `serving` must be sorted.
    pub(crate) fn new(serving: Vec<SocketAddr>) -> Self {
        Self { serving: serving.into(), retired: AtomicBool::new(false) }
    }

    pub(crate) fn serving(&self) -> &[SocketAddr] {
        &self.serving
    }

    /// Marks the endpoints as replaced by the plan in progress: older views must not judge these flows any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn refuses(&self, replies_from: SocketAddr) -> bool {
        self.serving.binary_search(&replies_from).is_err() && !self.retired.load(Ordering::Acquire)
    }

    /// Like [`Self::refuses`], for a flow to a node port. Without a serving endpoint, an untranslated flow belongs to a
    /// program on the node.
    fn refuses_at_node_port(&self, replies_from: SocketAddr, translated: bool) -> bool {
        (translated || !self.serving.is_empty()) && self.refuses(replies_from)
    }
}

/// This node's own addresses on which node ports answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeAddresses {
    pub(crate) ips: HashSet<IpAddr>,
    /// Whether all of 127.0.0.0/8 is included.
    pub(crate) loopback: bool,
}

impl NodeAddresses {
    /// Returns the addresses on which node ports answer: `-m addrtype --dst-type LOCAL` and its exceptions, or the
    /// listed addresses.
    pub(crate) fn of(family: Family, facts: &NodeFacts, local_addresses: &[IpAddr]) -> Self {
        let ips: HashSet<IpAddr> = match &facts.node_ports_on {
            NodePortsOn::Only(ips) => ips.iter().copied().collect(),
            NodePortsOn::Everywhere => {
                local_addresses.iter().filter(|ip| Family::of(**ip) == family && !ip.is_loopback()).copied().collect()
            }
        };
        let loopback = facts.localhost_node_ports && facts.node_ports_on == NodePortsOn::Everywhere;
        Self { ips, loopback }
    }

    fn contain(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip) || (self.loopback && matches!(ip, IpAddr::V4(v4) if v4.is_loopback()))
    }
}

type Addresses = HashMap<SocketAddr, Arc<ServingEndpoints>>;
type NodePorts = HashMap<u16, Arc<ServingEndpoints>>;

/// The UDP frontends of one family, as of a plan that the kernel confirmed. Immutable.
#[derive(Clone, Debug)]
pub struct View {
    family: Family,
    /// Cluster, load-balancer and external IPs with their ports.
    addresses: Addresses,
    /// Node ports, also those without a serving endpoint: their endpoints may have been removed while this program was
    /// down.
    node_ports: NodePorts,
    node: NodeAddresses,
    /// Frontends of earlier views whose flows were not cleaned up yet.
    former_addresses: HashSet<SocketAddr>,
    former_node_ports: HashSet<u16>,
}

/// The stale flows in one datagram of a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaleFlows {
    /// Delete requests, concatenated, to be sent as one datagram. Only the last one requests an acknowledgement; the
    /// others respond only if they fail.
    pub deletes: Vec<u8>,
    /// Number of delete requests.
    pub count: u32,
    /// Number of entries examined.
    pub seen: u32,
    /// Whether the dump ends here.
    pub done: bool,
    /// Whether entries moved during the dump, so that some may be missing.
    pub interrupted: bool,
    /// The errno with which the kernel refused the dump.
    pub error: Option<i32>,
}

impl View {
    pub(crate) fn new(family: Family, addresses: Addresses, node_ports: NodePorts, node: NodeAddresses) -> Self {
        Self {
            family,
            addresses,
            node_ports,
            node,
            former_addresses: HashSet::new(),
            former_node_ports: HashSet::new(),
        }
    }

    /// Returns whether both views have the same frontends with the same endpoints.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        // Node addresses matter only if there is a node port.
        (self.node == other.node || self.node_ports.is_empty())
            && same(&self.addresses, &other.addresses)
            && same(&self.node_ports, &other.node_ports)
    }

    /// Returns this view, extended by the work of an older view that was not carried out completely.
    #[must_use]
    pub fn inheriting(&self, older: &Self) -> Self {
        let mut both = self.clone();
        both.add_former(
            older.addresses.keys().chain(&older.former_addresses),
            older.node_ports.keys().chain(&older.former_node_ports),
        );
        both
    }

    /// Adds frontends of an earlier view, except those that still exist.
    fn add_former<'a>(
        &mut self,
        addresses: impl Iterator<Item = &'a SocketAddr>,
        node_ports: impl Iterator<Item = &'a u16>,
    ) {
        self.former_addresses.extend(addresses.filter(|a| !self.addresses.contains_key(*a)));
        self.former_node_ports.extend(node_ports.filter(|p| !self.node_ports.contains_key(*p)));
    }

    /// Returns the family of the flows.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Returns the number of present and former frontends. Without any, no flow can be stale.
    #[must_use]
    pub fn frontends(&self) -> usize {
        self.addresses.len() + self.node_ports.len() + self.former_addresses.len() + self.former_node_ports.len()
    }

    /// Returns the request for a dump that [`View::stale`] evaluates. A kernel that does not support filters may refuse
    /// a `filtered` one with EINVAL or EOPNOTSUPP; the other one dumps flows of all protocols.
    #[must_use]
    pub fn dump_request(&self, filtered: bool) -> Vec<u8> {
        wire::dump_request(self.family, filtered.then_some(UDP))
    }

    /// Finds the stale flows in one datagram of a conntrack dump. Accepts any bytes: an unreadable entry is not stale.
    #[must_use]
    pub fn stale(&self, dump: &[u8]) -> StaleFlows {
        let mut found = StaleFlows::default();
        let mut last = 0;
        for (message, interrupted) in messages(dump) {
            found.interrupted |= interrupted;
            match message {
                FlowMessage::Entry(flow) => {
                    found.seen += 1;
                    if let Some(flow) = flow.filter(|flow| self.is_stale(flow)) {
                        found.count += 1;
                        last = found.deletes.len();
                        delete_request(&flow, found.count, &mut found.deletes);
                    }
                }
                FlowMessage::Done(errno) => {
                    found.done = true;
                    found.error = errno;
                }
                FlowMessage::Other => {}
            }
        }
        if found.count > 0 {
            wire::ask_for_an_answer(&mut found.deletes[last..]);
        }
        found
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        let translated = flow.destination != flow.replies_from;
        // An untranslated flow in another zone belongs to another program (Open vSwitch keeps one entry per zone for
        // every packet that passes).
        if flow.protocol != UDP
            || Family::of(flow.destination.ip()) != self.family
            || (flow.in_other_zone() && !translated)
        {
            return false;
        }
        if let Some(target) = self.addresses.get(&flow.destination) {
            return target.refuses(flow.replies_from);
        }
        if self.former_addresses.contains(&flow.destination) {
            return translated;
        }
        let port = flow.destination.port();
        let target = self.node_ports.get(&port);
        if target.is_none() && !self.former_node_ports.contains(&port) {
            return false;
        }
        self.node.contain(flow.destination.ip())
            && target.map_or(translated, |t| t.refuses_at_node_port(flow.replies_from, translated))
    }
}

fn same<K: Eq + std::hash::Hash>(a: &HashMap<K, Arc<ServingEndpoints>>, b: &HashMap<K, Arc<ServingEndpoints>>) -> bool {
    a.len() == b.len() && a.iter().all(|(key, target)| b.get(key).is_some_and(|other| Arc::ptr_eq(target, other)))
}

/// The latest view of a family.
#[derive(Debug, Default)]
pub(crate) struct Latest {
    view: Option<Arc<View>>,
}

impl Latest {
    /// Returns the node's addresses in the latest view.
    pub(crate) fn node(&self) -> Option<&NodeAddresses> {
        self.view.as_ref().map(|view| &view.node)
    }

    /// Replaces the latest view. Returns `None` if the new view finds nothing that the previous one does not.
    pub(crate) fn renew(&mut self, mut view: View) -> Option<Arc<View>> {
        if let Some(before) = &self.view {
            if view.agrees_with(before) {
                return None;
            }
            // Frontends removed earlier are handled by the previous view; see `inheriting`.
            view.add_former(before.addresses.keys(), before.node_ports.keys());
        }
        let view = Arc::new(view);
        self.view = Some(view.clone());
        Some(view)
    }
}

#[cfg(test)]
mod tests;
