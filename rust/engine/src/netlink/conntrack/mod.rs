//! Which tracked UDP flows go nowhere any more.
//!
//! The kernel asks the rules only for a flow's first packet. A TCP client notices a dead backend and connects anew; a
//! UDP client that keeps its port (a resolver, a statsd sender) keeps its entry alive and talks to a Pod that is gone,
//! or to the bare Service address if it started before there were endpoints. Such entries must be deleted.
//!
//! Stale is a UDP flow to a Service's address whose replies do not come from an endpoint that serves now, whatever
//! policy or topology say: those decide about new flows. So is a translated flow to an address that belonged to a
//! Service in the view before. A node port without a serving endpoint loses its translated flows only: no rule claims
//! the port then, and a program on the node may answer there itself. Everything else is left alone: other protocols,
//! other destinations, flows that merely pass through us to a node port's number somewhere else.
//!
//! [`View`] is a snapshot that needs no engine, so dumps are judged while the next sync runs. What that sync is about
//! to change is not judged by an older view ([`Target::retire`]): else it would cut flows to endpoints it has never
//! heard of.

mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::{HashMap, HashSet};

use crate::model::address::Family;
use crate::model::names::Protocol;
use crate::rules::ruleset::{NodeFacts, NodePortsOn};
use wire::{Flow, Message, delete_request, messages};

const UDP: u8 = Protocol::Udp.number();

/// Where a UDP service port's flows may be answered from.
#[derive(Debug, Default)]
pub(crate) struct Target {
    /// Every serving endpoint, sorted.
    serving: Box<[SocketAddr]>,
    /// A newer plan has other endpoints.
    retired: AtomicBool,
}

impl Target {
    /// `serving` must be sorted.
    pub(crate) fn new(serving: Vec<SocketAddr>) -> Self {
        Self { serving: serving.into(), retired: AtomicBool::new(false) }
    }

    pub(crate) fn serving(&self) -> &[SocketAddr] {
        &self.serving
    }

    /// Endpoints change with the plan being made: views made before it must not judge these flows any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn refuses(&self, replies_from: SocketAddr) -> bool {
        self.serving.binary_search(&replies_from).is_err() && !self.retired.load(Ordering::Acquire)
    }

    /// Like [`Target::refuses`], for a flow to a node port. Without a serving endpoint, an untranslated flow belongs to a
    /// program on the node.
    fn refuses_at_node_port(&self, replies_from: SocketAddr, translated: bool) -> bool {
        (translated || !self.serving.is_empty()) && self.refuses(replies_from)
    }
}

/// This node's own addresses, as far as node ports answer on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeAddresses {
    pub(crate) ips: HashSet<IpAddr>,
    /// All of 127.0.0.0/8 too.
    pub(crate) loopback: bool,
}

impl NodeAddresses {
    /// Where node ports answer: `-m addrtype --dst-type LOCAL` and its exceptions, or the listed addresses.
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

type Addresses = HashMap<SocketAddr, Arc<Target>>;
type NodePorts = HashMap<u16, Arc<Target>>;

/// The UDP frontends of one family as of a plan that the kernel has confirmed. Immutable.
#[derive(Clone, Debug)]
pub struct View {
    family: Family,
    /// Cluster, load-balancer and external IPs with their port.
    addresses: Addresses,
    /// Those without a serving endpoint too: their endpoints may have gone while this program was down.
    node_ports: NodePorts,
    node: NodeAddresses,
    /// Frontends of the views before that nobody has cleaned up after.
    former_addresses: HashSet<SocketAddr>,
    former_node_ports: HashSet<u16>,
}

/// What one datagram of a dump held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaleFlows {
    /// Delete requests, one after the other, to be sent as one datagram. Only the last one asks for an answer;
    /// the others answer if they fail.
    pub deletes: Vec<u8>,
    /// How many requests that is.
    pub count: u32,
    /// Entries looked at.
    pub seen: u32,
    /// The dump ends here.
    pub done: bool,
    /// Entries moved while the kernel walked them: some may be missing from the dump.
    pub interrupted: bool,
    /// The kernel refused the dump: errno.
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

    /// The same frontends, each with the same endpoints.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        // Node addresses count only where there is a node port to be reached on them.
        (self.node == other.node || self.node_ports.is_empty())
            && same(&self.addresses, &other.addresses)
            && same(&self.node_ports, &other.node_ports)
    }

    /// This view, doing the work of an older one that was never carried out (to its end), too.
    #[must_use]
    pub fn inheriting(&self, older: &Self) -> Self {
        let mut both = self.clone();
        both.add_former(
            older.addresses.keys().chain(&older.former_addresses),
            older.node_ports.keys().chain(&older.former_node_ports),
        );
        both
    }

    /// Frontends of an earlier view; those that are still there are no former ones.
    fn add_former<'a>(
        &mut self,
        addresses: impl Iterator<Item = &'a SocketAddr>,
        node_ports: impl Iterator<Item = &'a u16>,
    ) {
        self.former_addresses.extend(addresses.filter(|a| !self.addresses.contains_key(*a)));
        self.former_node_ports.extend(node_ports.filter(|p| !self.node_ports.contains_key(*p)));
    }

    /// The family of its flows.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Frontends, present and former ones. With none, no flow can be stale.
    #[must_use]
    pub fn frontends(&self) -> usize {
        self.addresses.len() + self.node_ports.len() + self.former_addresses.len() + self.former_node_ports.len()
    }

    /// Returns the request for a dump that [`View::stale`] judges. A kernel that cannot filter may refuse a `filtered`
    /// one with EINVAL or EOPNOTSUPP; the other one then shows flows of all protocols.
    #[must_use]
    pub fn dump_request(&self, filtered: bool) -> Vec<u8> {
        wire::dump_request(self.family, filtered.then_some(UDP))
    }

    /// Judge one datagram of a conntrack dump. Any bytes will do: what cannot be read is not stale.
    #[must_use]
    pub fn stale(&self, dump: &[u8]) -> StaleFlows {
        let mut found = StaleFlows::default();
        let mut last = 0;
        for (message, interrupted) in messages(dump) {
            found.interrupted |= interrupted;
            match message {
                Message::Entry(flow) => {
                    found.seen += 1;
                    if let Some(flow) = flow.filter(|flow| self.is_stale(flow)) {
                        found.count += 1;
                        last = found.deletes.len();
                        delete_request(&flow, found.count, &mut found.deletes);
                    }
                }
                Message::Done(errno) => {
                    found.done = true;
                    found.error = errno;
                }
                Message::Other => {}
            }
        }
        if found.count > 0 {
            wire::ask_for_an_answer(&mut found.deletes[last..]);
        }
        found
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        let translated = flow.destination != flow.replies_from;
        // In another zone, a flow that nobody translated is another program's bookkeeping (Open vSwitch keeps one
        // entry a zone for every packet that passes).
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

fn same<K: Eq + std::hash::Hash>(a: &HashMap<K, Arc<Target>>, b: &HashMap<K, Arc<Target>>) -> bool {
    a.len() == b.len() && a.iter().all(|(key, target)| b.get(key).is_some_and(|other| Arc::ptr_eq(target, other)))
}

/// The latest view of a family.
#[derive(Debug, Default)]
pub(crate) struct Latest {
    view: Option<Arc<View>>,
}

impl Latest {
    /// The node's addresses in it.
    pub(crate) fn node(&self) -> Option<&NodeAddresses> {
        self.view.as_ref().map(|view| &view.node)
    }

    /// Take a new view for the latest; `None` when it would find nothing that the one before does not.
    pub(crate) fn renew(&mut self, mut view: View) -> Option<Arc<View>> {
        if let Some(before) = &self.view {
            if view.agrees_with(before) {
                return None;
            }
            // What went away earlier is the business of the view before; see `inheriting`.
            view.add_former(before.addresses.keys(), before.node_ports.keys());
        }
        let view = Arc::new(view);
        self.view = Some(view.clone());
        Some(view)
    }
}

#[cfg(test)]
mod tests;
