//! The state of one family's rules. [`planning`](super::planning) turns changes of the store into plans,
//! [`outcomes`](super::outcomes) applies what became of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::input::problem::Problem;
use crate::model::address::Family;
use crate::model::claims::Resource;
use crate::model::names::PortName;
use crate::netlink::conntrack::{Latest, NodeAddresses, View};
use crate::report::FamilyFacts;
use crate::rules::digest::Digester;
use crate::rules::entry_jumps::{EntryJump, entry_jumps};
use crate::rules::matches::Match;
use crate::rules::rule::Rule;
use crate::rules::ruleset::NodeFacts;
use crate::state::delta::Delta;
use crate::state::lifecycle::Lifecycle;
use crate::state::port_state::Tally;
use crate::state::ports::Ports;

/// The state of one family's rules.
#[derive(Debug)]
pub(crate) struct FamilyState {
    pub(super) family: Family,
    pub(super) ports: Ports,
    pub(super) delta: Delta,
    /// Ports with chains that may differ from the applied ones although the ports did not change.
    pub(super) unconfirmed: BTreeSet<PortName>,
    pub(super) lifecycle: Lifecycle,
    /// Of the last plan.
    pub(super) generation: u64,
    /// Number of rules in chains that do not belong to a port, by table, as of the last plan.
    pub(super) fixed: [usize; 3],
    tracked: Latest,
}

impl FamilyState {
    pub(crate) fn new(family: Family, digester: &Digester) -> Self {
        Self {
            family,
            ports: Ports::new(family),
            delta: Delta::new(digester),
            unconfirmed: BTreeSet::new(),
            lifecycle: Lifecycle::default(),
            generation: 0,
            fixed: [0; 3],
            tracked: Latest::default(),
        }
    }

    /// Returns the entry jumps that are missing in the kernel.
    pub(super) fn missing(&self, facts: &NodeFacts) -> Vec<EntryJump> {
        let stands = |jump: &EntryJump| {
            self.lifecycle.foreign().into_iter().flat_map(|foreign| &foreign.entry_jumps).any(|(table, chain, rule)| {
                *table == jump.table && chain == jump.chain && same_entry_jump(rule, &jump.rule)
            })
        };
        entry_jumps(self.family, facts.localhost_node_ports).into_iter().filter(|jump| !stands(jump)).collect()
    }

    pub(super) fn describe(&self, jump: &EntryJump) -> String {
        let mut text = format!("{} -I {}", jump.table.name(), jump.chain).into_bytes();
        jump.rule.write_to(self.family, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    // ---------------------------------------------------------------- tracked flows

    /// Returns what makes a UDP flow stale. Returns `None` if nothing relevant changed since the last view, or while
    /// the last plan is not confirmed: a deleted flow would then be created again with the old translation.
    pub(crate) fn conntrack_view(&mut self, local_addresses: &[IpAddr]) -> Option<Arc<View>> {
        let facts = self.lifecycle.facts().filter(|_| self.lifecycle.is_settled())?;
        let node = NodeAddresses::of(self.family, facts, local_addresses);
        if !self.ports.udp_changed() && self.tracked.node() == Some(&node) {
            return None;
        }
        self.tracked.renew(self.ports.udp_view(node))
    }

    // ---------------------------------------------------------------- reports

    /// Returns the ports that lost an address to another port, as of the last plan.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Problem> {
        self.ports.conflicts()
    }

    /// Returns those of one resource.
    pub(crate) fn conflicts_on(&self, resource: Resource) -> impl Iterator<Item = Problem> {
        self.ports.conflicts_on(resource)
    }

    /// Takes the resources whose conflicts may have changed since the last call.
    pub(crate) fn take_contest_changes(&mut self) -> BTreeSet<Resource> {
        self.ports.take_contest_changes()
    }

    /// Returns whether another Service owns a health check node port that `service` claims, as of the last plan.
    pub(crate) fn loses_health_check(&self, service: &str, port: u16) -> bool {
        self.ports.loses_health_check(service, port)
    }

    /// Returns whether rules for node ports on 127.0.0.0/8 exist.
    pub(crate) fn localhost_node_ports(&self) -> bool {
        self.lifecycle.facts().is_some_and(|f| f.localhost_node_ports)
    }

    /// Returns figures for metrics, as of the last plan.
    pub(crate) fn facts(&self) -> FamilyFacts {
        let (ports, endpoints, large) = self.ports.counts();
        let Tally { rules, orphaned: [no_local_internal, no_local_external] } = self.ports.tally();
        let mut held: Vec<_> = self.delta.held().map(|(chain, by)| (chain.to_string(), by.to_owned())).collect();
        held.sort_unstable();
        FamilyFacts {
            service_ports: ports,
            endpoints,
            large_mode: large,
            rules: std::array::from_fn(|i| rules[i] + self.fixed[i]),
            no_local_internal,
            no_local_external,
            node_port_addresses: self.lifecycle.facts().and_then(NodeFacts::node_port_addresses),
            held,
        }
    }

    /// Returns figures for a snapshot: ports, endpoints, large mode, and the numbers of desired, applied and stale chains.
    pub(crate) fn counts(&self) -> (usize, usize, bool, (usize, usize, usize)) {
        let (ports, endpoints, large) = self.ports.counts();
        (ports, endpoints, large, self.delta.counts())
    }
}

/// Returns whether two rules are the same entry jump, whatever their comments: another version may word them differently.
/// Rules of KUBE-FIREWALL have no comments.
fn same_entry_jump(standing: &Rule, wanted: &Rule) -> bool {
    let bare = |rule: &Rule| {
        let mut rule = rule.clone();
        rule.matches.retain(|m| !matches!(m, Match::Comment(_)));
        rule
    };
    bare(standing) == bare(wanted)
}
