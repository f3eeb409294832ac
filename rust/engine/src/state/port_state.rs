//! The state kept for one service port between plans.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::input::service::{Service, ServicePort};
use crate::model::candidates::Candidate;
use crate::model::names::ChainId;
use crate::model::topology::Reach;
use crate::netlink::conntrack::ServingEndpoints;
use crate::rules::dispatch_tree::chains::DispatchRule;

/// The state kept for a service port between plans: not its rules, only their names, digests and counts.
#[derive(Debug)]
pub(super) struct PortState {
    /// `ns/name` of the port's Service.
    pub(super) key: Arc<str>,
    pub(super) service: Arc<Service>,
    pub(super) index: usize,
    pub(super) endpoints: usize,
    pub(super) reach: Reach,
    /// Sorted.
    pub(super) chains: Box<[ChainId]>,
    pub(super) dispatch_rules: Box<[DispatchRule]>,
    /// For a UDP port: the endpoints that may answer its flows.
    pub(super) serving: Option<Arc<ServingEndpoints>>,
    pub(super) tally: Tally,
}

/// Counts of one port, or totals of all ports.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Rules by table, dispatch included.
    pub(crate) rules: [usize; 3],
    /// Ports whose policy (internal, external) requires local endpoints while only other nodes have some.
    pub(crate) orphaned: [usize; 2],
}

impl Tally {
    /// Replaces one port's contribution to the totals.
    pub(super) fn replace(&mut self, old: Self, new: Self) {
        for (sum, (old, new)) in self.rules.iter_mut().zip(old.rules.into_iter().zip(new.rules)) {
            *sum = *sum - old + new;
        }
        for (sum, (old, new)) in self.orphaned.iter_mut().zip(old.orphaned.into_iter().zip(new.orphaned)) {
            *sum = *sum - old + new;
        }
    }
}

impl PortState {
    /// Creates the state of a port that is not rendered yet.
    pub(super) fn new(key: &Arc<str>, service: &Arc<Service>, index: usize) -> Self {
        Self {
            key: key.clone(),
            service: service.clone(),
            index,
            endpoints: 0,
            reach: Reach::default(),
            chains: Box::default(),
            dispatch_rules: Box::default(),
            tally: Tally::default(),
            serving: None,
        }
    }

    /// Updates the endpoints that may answer the port's flows. Returns whether they changed.
    pub(super) fn update_serving(&mut self, candidates: &[Candidate<'_>]) -> bool {
        // publishNotReadyAddresses produces endpoints that are ready but not serving: rules lead there, so replies may
        // come from them.
        let able = candidates.iter().filter(|c| c.endpoint.state.serving || c.endpoint.state.ready);
        let serving: Vec<SocketAddr> = able.map(Candidate::address).collect();
        if let Some(before) = &self.serving {
            if before.serving() == serving {
                return false;
            }
            before.retire();
        }
        self.serving = Some(Arc::new(ServingEndpoints::new(serving)));
        true
    }

    pub(super) fn port(&self) -> &ServicePort {
        &self.service.ports[self.index]
    }
}
