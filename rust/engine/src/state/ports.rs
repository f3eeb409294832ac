//! The service ports of a family between plans: which exist, what they claim, and the names, digests and counts of
//! their rules.
//!
//! Rules themselves are not kept. A port keeps its chains' names, its contribution to each dispatch chain's digest, and
//! its reach. Any rule can be rendered again from these and the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::input::service::{Service, ServicePort};
use crate::model::address::Family;
use crate::model::candidates;
use crate::model::claims::{Claim, ClaimPriority, Claims, Rank, Resource};
use crate::model::names::{PortName, Protocol};
use crate::model::store::Store;
use crate::options::Options;
use crate::rules::dispatch_tree::chains::DispatchChains;
use crate::rules::ruleset::{Context, NodeFacts};
use crate::state::delta::Delta;
use crate::state::port_state::{PortState, Tally};

/// The number of endpoints in a family above which rules of single endpoints carry no comments: 40 % less text, and a
/// shorter traversal per packet (kube-proxy's `largeClusterEndpointsThreshold`).
const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

/// All service ports of one family.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(super) family: Family,
    pub(super) states: BTreeMap<PortName, PortState>,
    pub(super) by_service: HashMap<Arc<str>, Vec<PortName>>,
    pub(super) claims: Claims,
    pub(super) endpoints: usize,
    pub(super) large: bool,
    pub(super) dispatch_chains: DispatchChains,
    pub(super) udp: BTreeSet<PortName>,
    /// Whether a UDP port's addresses or endpoints changed since the last view.
    pub(super) udp_changed: bool,
    pub(super) tally: Tally,
}

impl Ports {
    pub(crate) fn new(family: Family) -> Self {
        Self {
            family,
            states: BTreeMap::new(),
            by_service: HashMap::new(),
            claims: Claims::default(),
            endpoints: 0,
            large: false,
            dispatch_chains: DispatchChains::default(),
            udp: BTreeSet::new(),
            udp_changed: false,
            tally: Tally::default(),
        }
    }

    /// Returns the input of the rule generators.
    pub(crate) fn context<'a>(&'a self, options: &'a Options, facts: &'a NodeFacts) -> Context<'a> {
        Context { family: self.family, options, facts, claims: &self.claims, large: self.large }
    }

    /// Returns the dispatch chains.
    pub(crate) const fn dispatch_chains(&self) -> &DispatchChains {
        &self.dispatch_chains
    }

    /// Returns the dispatch chains for an update from an observation.
    pub(crate) const fn dispatch_chains_mut(&mut self) -> &mut DispatchChains {
        &mut self.dispatch_chains
    }

    /// Returns the Services that have ports in this family.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_service.keys()
    }

    /// Returns the ports with a chain that must be written.
    pub(crate) fn differing(&self, delta: &Delta) -> impl Iterator<Item = &PortName> {
        self.states.iter().filter(|(_, state)| state.chains.iter().any(|&c| delta.differs(c))).map(|(name, _)| name)
    }

    /// Returns counts for a snapshot: ports, endpoints, large mode.
    pub(crate) fn counts(&self) -> (usize, usize, bool) {
        (self.states.len(), self.endpoints, self.large)
    }

    /// Estimates the number of chains of all ports.
    pub(crate) fn expected_chains(&self) -> usize {
        self.endpoints + self.states.len()
    }

    /// Returns whether the port belongs to a Service of the first stage.
    pub(crate) fn is_first(&self, name: &PortName, options: &Options) -> bool {
        let first = &options.first_services;
        let named = |state: &PortState| state.service.dns || first.iter().any(|key| **key == *state.key);
        !first.is_empty() && self.states.get(name).is_some_and(named)
    }

    /// Returns the totals of all ports.
    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// Counts the endpoints of the touched ports, after `restructure`. Crossing the large-mode threshold touches every
    /// port.
    pub(crate) fn recount(&mut self, touched: &mut BTreeSet<PortName>, store: &Store) {
        touched.retain(|name| self.states.contains_key(name));
        for name in &*touched {
            self.recount_one(name, store);
        }
        let large = self.endpoints > LARGE_CLUSTER_ENDPOINTS;
        if large != self.large {
            self.large = large;
            touched.extend(self.states.keys().cloned());
        }
    }

    /// Updates a Service's ports and claims from its object, and adds the ports to render to `touched`.
    pub(crate) fn restructure(
        &mut self,
        key: &Arc<str>,
        store: &Store,
        delta: &mut Delta,
        touched: &mut Vec<PortName>,
    ) {
        let service = store.service(key).filter(|s| s.cluster_ips[self.family.index()].is_some());
        let names: Vec<PortName> = service
            .map_or_else(Vec::new, |s| s.ports.iter().map(|p| PortName::new(key, &p.name, p.protocol)).collect());
        let before = self.by_service.remove(key).unwrap_or_default();
        for removed in before.iter().filter(|n| !names.contains(n)) {
            self.drop_port(removed, delta, touched);
        }
        let Some(service) = service else { return };
        for (index, name) in names.iter().enumerate() {
            let unchanged = self.states.get(name).is_some_and(|s| s.index == index && Arc::ptr_eq(&s.service, service));
            if !unchanged {
                let old = self.states.get(name).map(|s| (s.service.clone(), s.index));
                if let Some((old, at)) = old {
                    self.remove_claims(name, &old, at, touched);
                }
                self.add_claims(name, service, index, touched);
                let update = |state: &mut PortState| {
                    state.service = service.clone();
                    state.index = index;
                };
                self.states
                    .entry(name.clone())
                    .and_modify(update)
                    .or_insert_with(|| PortState::new(key, service, index));
            }
            touched.push(name.clone());
        }
        self.by_service.insert(key.clone(), names);
    }

    fn add_claims(&mut self, name: &PortName, service: &Service, index: usize, touched: &mut Vec<PortName>) {
        if name.protocol() == Protocol::Udp {
            self.udp.insert(name.clone());
            self.udp_changed = true;
        }
        for (resource, rank) in resources_of(self.family, service, index) {
            touched.extend(self.claims.add(resource, rank, name));
        }
    }

    fn remove_claims(&mut self, name: &PortName, service: &Service, index: usize, touched: &mut Vec<PortName>) {
        for (resource, rank) in resources_of(self.family, service, index) {
            touched.extend(self.claims.remove(resource, rank, name));
        }
    }

    fn drop_port(&mut self, name: &PortName, delta: &mut Delta, touched: &mut Vec<PortName>) {
        let Some(state) = self.states.remove(name) else { return };
        if self.udp.remove(name) {
            self.udp_changed = true;
        }
        if let Some(serving) = &state.serving {
            serving.retire();
        }
        self.remove_claims(name, &state.service, state.index, touched);
        self.endpoints -= state.endpoints;
        for &chain in &state.chains {
            delta.unwant(chain);
        }
        self.dispatch_chains.replace(name, &state.dispatch_rules, &[]);
        self.tally.replace(state.tally, Tally::default());
    }

    fn recount_one(&mut self, name: &PortName, store: &Store) {
        let Some(state) = self.states.get_mut(name) else { return };
        let now =
            candidates::of_port(store.slices_of(&state.key), self.family, &state.port().name, name.protocol()).len();
        self.endpoints = self.endpoints - state.endpoints + now;
        state.endpoints = now;
    }

    /// Returns whether a UDP port's addresses or endpoints changed since the last `udp_view`.
    pub(crate) const fn udp_changed(&self) -> bool {
        self.udp_changed
    }
}

/// Returns what a port of a Service claims.
fn resources_of(family: Family, service: &Service, index: usize) -> impl Iterator<Item = (Resource, Rank)> {
    let health_check = service.health_check_port.filter(|_| index == 0);
    let health_check = health_check.map(|n| (Resource::HealthCheckPort(n), ClaimPriority::HealthCheckPort));
    let frontends = claims_of(family, service, &service.ports[index]).into_iter();
    frontends
        .map(|(claim, priority)| (claim.into(), priority))
        .chain(health_check)
        .map(|(resource, priority)| (resource, Rank { priority, created: service.created }))
}

/// Returns the addresses and ports that a service port claims.
pub(super) fn claims_of(family: Family, service: &Service, port: &ServicePort) -> Vec<(Claim, ClaimPriority)> {
    let address = |ip| Claim::Address(ip, port.protocol, port.port);
    let cluster = service.cluster_ips[family.index()].into_iter().map(|ip| (address(ip), ClaimPriority::ClusterIp));
    let balancer = service.load_balancer_ips_of(family).map(|ip| (address(ip), ClaimPriority::LoadBalancer));
    let external = service.external_ips_of(family).map(|ip| (address(ip), ClaimPriority::External));
    let node_port = port.node_port.map(|n| (Claim::NodePort(port.protocol, n), ClaimPriority::NodePort));
    cluster.chain(balancer).chain(external).chain(node_port).collect()
}
