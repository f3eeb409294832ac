//! Service ports between plans: which exist, what they claim, and what their rules amount to.
//!
//! Rules themselves are not kept. A port remembers its chains' names, its share of each dispatch chain's digest and what
//! of it can be reached; from that and the store, any rule can be made again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::input::problem::{Problem, ProblemKind};
use crate::input::service::{Service, ServicePort};
use crate::model::address::Family;
use crate::model::claims::{Claim, Claims, Title};
use crate::model::endpoints::{self, Candidate};
use crate::model::names::{ChainId, FixedChain, PortName, Protocol, Table};
use crate::model::store::Store;
use crate::model::topology::{Reach, choose};
use crate::netlink::conntrack::{NodeAddresses, Target, View};
use crate::options::Options;
use crate::rules::digest::Digester;
use crate::rules::dispatch_tree::chains::{Part, Roots, Share};
use crate::rules::dispatch_tree::tree::{Body, Entry};
use crate::rules::rule::Rule;
use crate::rules::ruleset::{Context, NodeFacts, PortView, Sink, dispatch_rules, port_chains};
use crate::state::delta::Delta;
use crate::write::changeset::Writes;
use crate::write::rendered_rules::Lines;

/// Above this many endpoints in a family, rules about single endpoints carry no comments: 40 % less text, and a
/// shorter walk per packet (kube-proxy's `largeClusterEndpointsThreshold`).
const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

/// What is remembered of a service port between plans: no rule, only what they amount to.
#[derive(Debug)]
struct PortState {
    /// `ns/name` of its Service.
    key: Arc<str>,
    service: Arc<Service>,
    index: usize,
    endpoints: usize,
    reach: Reach,
    /// Sorted.
    chains: Box<[ChainId]>,
    shares: Box<[Share]>,
    /// Of a UDP port: who may answer its flows.
    target: Option<Arc<Target>>,
    tally: Tally,
}

/// What is counted of a port, and of all of them together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Rules by table, dispatch included.
    pub(crate) rules: [usize; 3],
    /// Ports whose policy (internal, external) asks for endpoints of this node, and there are endpoints, but none here.
    pub(crate) orphaned: [usize; 2],
}

impl Tally {
    /// A part of this sum is another one now.
    fn exchange(&mut self, old: Self, new: Self) {
        for (sum, (old, new)) in self.rules.iter_mut().zip(old.rules.into_iter().zip(new.rules)) {
            *sum = *sum - old + new;
        }
        for (sum, (old, new)) in self.orphaned.iter_mut().zip(old.orphaned.into_iter().zip(new.orphaned)) {
            *sum = *sum - old + new;
        }
    }
}

impl PortState {
    /// Not rendered yet.
    fn new(key: &Arc<str>, service: &Arc<Service>, index: usize) -> Self {
        Self {
            key: key.clone(),
            service: service.clone(),
            index,
            endpoints: 0,
            reach: Reach::default(),
            chains: Box::default(),
            shares: Box::default(),
            tally: Tally::default(),
            target: None,
        }
    }

    /// Take over who may answer the port's flows; true if that differs from before.
    fn retarget(&mut self, candidates: &[Candidate<'_>]) -> bool {
        // Ready without serving is what publishNotReadyAddresses makes: rules lead there, so replies may come from it.
        let able = candidates.iter().filter(|c| c.endpoint.state.serving || c.endpoint.state.ready);
        let serving: Vec<SocketAddr> = able.map(Candidate::address).collect();
        if let Some(before) = &self.target {
            if before.serving() == serving {
                return false;
            }
            before.retire();
        }
        self.target = Some(Arc::new(Target::new(serving)));
        true
    }

    fn port(&self) -> &ServicePort {
        &self.service.ports[self.index]
    }
}

/// What rendering reads besides the port itself.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) store: &'a Store,
    pub(crate) options: &'a Options,
    pub(crate) facts: &'a NodeFacts,
    pub(crate) digester: &'a Digester,
}

/// All service ports of one family.
#[derive(Debug)]
pub(crate) struct Ports {
    family: Family,
    states: BTreeMap<PortName, PortState>,
    of_service: HashMap<Arc<str>, Vec<PortName>>,
    claims: Claims,
    endpoints: usize,
    large: bool,
    roots: Roots,
    udp: BTreeSet<PortName>,
    /// A UDP port's addresses or endpoints changed since the last view.
    udp_changed: bool,
    tally: Tally,
}

/// Forwards chains to the writes and the delta.
struct PlanSink<'a, 'b> {
    delta: &'a mut Delta,
    writes: &'a mut Writes<'b>,
    chains: Vec<ChainId>,
    rules: [usize; 3],
}

impl Sink for PlanSink<'_, '_> {
    fn chain(&mut self, id: ChainId, rules: &[Rule]) {
        let delta = &mut *self.delta;
        self.writes.chain(id, rules, |digest| {
            delta.want(id, digest);
            delta.differs(id)
        });
        self.chains.push(id);
        self.rules[id.table() as usize] += rules.len();
    }
}

impl Ports {
    pub(crate) fn new(family: Family) -> Self {
        Self {
            family,
            states: BTreeMap::new(),
            of_service: HashMap::new(),
            claims: Claims::default(),
            endpoints: 0,
            large: false,
            roots: Roots::default(),
            udp: BTreeSet::new(),
            udp_changed: false,
            tally: Tally::default(),
        }
    }

    /// What rule generators may look at.
    pub(crate) fn context<'a>(&'a self, options: &'a Options, facts: &'a NodeFacts) -> Context<'a> {
        Context { family: self.family, options, facts, claims: &self.claims, large: self.large }
    }

    /// The dispatch chains.
    pub(crate) const fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The same, to tell it what was seen of the kernel.
    pub(crate) const fn roots_mut(&mut self) -> &mut Roots {
        &mut self.roots
    }

    /// After the ports were rendered: give each dispatch chain its form, and write the parts of trees that differ.
    pub(crate) fn write_trees(&mut self, inputs: &Inputs<'_>, delta: &mut Delta, writes: &mut Writes<'_>) -> Vec<Part> {
        let states = &self.states;
        let shares = || states.iter().map(|(name, state)| (name, &*state.shares));
        self.roots.settle(self.family, inputs.options, inputs.digester, delta, shares);
        let parts = self.roots.take_parts(delta);
        let ctx = self.context(inputs.options, inputs.facts);
        for &part in &parts {
            let Some(node) = self.roots.find(part) else { continue };
            let table = part.of.table();
            writes.open_part(node.id, part.place.len);
            match &node.body {
                Body::Inner { .. } => node.jumps(part.of).iter().for_each(|rule| writes.part(table, rule)),
                Body::Leaf(entries) => {
                    for entry in entries {
                        if !writes.part_known(table, entry.digest)
                            && let Some(rule) = self.rule_of(&ctx, part.of, entry)
                        {
                            writes.part(table, &rule);
                        }
                    }
                }
            }
        }
        parts
    }

    /// Make one rule of a dispatch chain again.
    fn rule_of(&self, ctx: &Context<'_>, chain: FixedChain, entry: &Entry) -> Option<Rule> {
        let state = self.states.get(&entry.port)?;
        let view = PortView::new(self.family, &entry.port, &state.service, state.port())?;
        let (mut left, mut found) = (entry.nth, None);
        dispatch_rules(ctx, &view, state.reach, &mut |of, rule| {
            if of == chain && found.is_none() && Claim::of_rule(&rule) == Some(entry.key) {
                match left.checked_sub(1) {
                    Some(less) => left = less,
                    None => found = Some(rule),
                }
            }
        });
        found
    }

    /// Write every port's rules in these dispatch chains, ports in name order. Ports that have none, or were not rendered
    /// yet (so nobody knows what can be reached), are passed over.
    pub(crate) fn write_flat(&self, ctx: &Context<'_>, chains: &[FixedChain], writes: &mut Writes<'_>) {
        for (name, state) in self.states.iter().filter(|(_, state)| !state.shares.is_empty()) {
            let mine = || state.shares.iter().filter(|share| chains.contains(&share.chain));
            if mine().all(|share| writes.lines.get(share.digest).is_some()) {
                mine().for_each(|share| writes.dispatch_known(share.chain, share.key, share.digest));
            } else if let Some(view) = PortView::new(self.family, name, &state.service, state.port()) {
                dispatch_rules(ctx, &view, state.reach, &mut |chain, rule| {
                    if chains.contains(&chain) {
                        writes.dispatch(chain, &rule);
                    }
                });
            }
        }
    }

    /// Services that have ports here.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.of_service.keys()
    }

    /// Ports with a chain that must be written.
    pub(crate) fn differing(&self, delta: &Delta) -> impl Iterator<Item = &PortName> {
        self.states.iter().filter(|(_, state)| state.chains.iter().any(|&c| delta.differs(c))).map(|(name, _)| name)
    }

    /// Numbers for a snapshot: ports, endpoints, large mode.
    pub(crate) fn counts(&self) -> (usize, usize, bool) {
        (self.states.len(), self.endpoints, self.large)
    }

    /// About as many chains as all ports together have.
    pub(crate) fn expected_chains(&self) -> usize {
        self.endpoints + self.states.len()
    }

    /// Whether it is a port of a Service that others need to get going.
    pub(crate) fn is_first(&self, name: &PortName, options: &Options) -> bool {
        let first = &options.first_services;
        let named = |state: &PortState| state.service.dns || first.iter().any(|key| **key == *state.key);
        !first.is_empty() && self.states.get(name).is_some_and(named)
    }

    /// Of all ports.
    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// After `restructure`: count the touched ports' endpoints. Crossing the large mode's line touches every port.
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

    /// Match a Service's ports and claims to its object; `touched` collects the ports to render.
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
        let before = self.of_service.remove(key).unwrap_or_default();
        for gone in before.iter().filter(|n| !names.contains(n)) {
            self.drop_port(gone, delta, touched);
        }
        let Some(service) = service else { return };
        for (index, name) in names.iter().enumerate() {
            let unchanged = self.states.get(name).is_some_and(|s| s.index == index && Arc::ptr_eq(&s.service, service));
            if !unchanged {
                let old = self.states.get(name).map(|s| (s.service.clone(), s.index));
                if let Some((old, at)) = old {
                    self.withdraw(name, &old, at, touched);
                }
                self.enter(name, service, index, touched);
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
        self.of_service.insert(key.clone(), names);
    }

    fn enter(&mut self, name: &PortName, service: &Service, index: usize, touched: &mut Vec<PortName>) {
        if name.protocol() == Protocol::Udp {
            self.udp.insert(name.clone());
            self.udp_changed = true;
        }
        for (claim, title) in claims_of(self.family, service, &service.ports[index]) {
            touched.extend(self.claims.enter(claim, title, name));
        }
    }

    fn withdraw(&mut self, name: &PortName, service: &Service, index: usize, touched: &mut Vec<PortName>) {
        for (claim, title) in claims_of(self.family, service, &service.ports[index]) {
            touched.extend(self.claims.withdraw(claim, title, name));
        }
    }

    fn drop_port(&mut self, name: &PortName, delta: &mut Delta, touched: &mut Vec<PortName>) {
        let Some(state) = self.states.remove(name) else { return };
        if self.udp.remove(name) {
            self.udp_changed = true;
        }
        if let Some(target) = &state.target {
            target.retire();
        }
        self.withdraw(name, &state.service, state.index, touched);
        self.endpoints -= state.endpoints;
        for &chain in &state.chains {
            delta.unwant(chain);
        }
        self.roots.replace(name, &state.shares, &[]);
        self.tally.exchange(state.tally, Tally::default());
    }

    fn recount_one(&mut self, name: &PortName, store: &Store) {
        let Some(state) = self.states.get_mut(name) else { return };
        let now =
            endpoints::of_port(store.slices_of(&state.key), self.family, &state.port().name, name.protocol()).len();
        self.endpoints = self.endpoints - state.endpoints + now;
        state.endpoints = now;
    }

    /// Render a port's chains and dispatch rules; offers the chains to `writes`.
    pub(crate) fn render(&mut self, name: &PortName, inputs: &Inputs<'_>, delta: &mut Delta, writes: &mut Writes<'_>) {
        let Inputs { store, options, facts, digester } = *inputs;
        let Some(state) = self.states.get_mut(name) else { return };
        let service = state.service.clone();
        let port = &service.ports[state.index];
        let Some(view) = PortView::new(self.family, name, &service, port) else { return };
        let ctx = Context { family: self.family, options, facts, claims: &self.claims, large: self.large };
        let candidates = endpoints::of_port(store.slices_of(&state.key), self.family, &port.name, port.protocol);
        let (reach, picks) = choose(&candidates, view.policies, facts.zone.as_deref());
        if port.protocol == Protocol::Udp {
            self.udp_changed |= state.retarget(&candidates);
        }

        let mut sink = PlanSink {
            delta: &mut *delta,
            writes: writes.next_port(),
            chains: Vec::with_capacity(picks.len() + 3),
            rules: [0; 3],
        };
        port_chains(&ctx, &view, reach, &picks, &mut sink);
        let (mut chains, mut rules) = (sink.chains, sink.rules);
        chains.sort_unstable();
        for old in state.chains.iter().filter(|c| chains.binary_search(c).is_err()) {
            delta.unwant(*old);
        }
        state.chains = chains.into();
        state.reach = reach;

        let shares = shares(&ctx, &view, reach, digester, &mut writes.lines);
        self.roots.replace(name, &state.shares, &shares);
        for share in &shares {
            rules[share.chain.table() as usize] += 1;
        }
        state.shares = shares;
        let orphaned = reach.any && !reach.local && view.policies.use_local();
        let policies = [view.policies.internal_local, view.policies.external_local];
        let tally = Tally { rules, orphaned: policies.map(|local| usize::from(orphaned && local)) };
        self.tally.exchange(state.tally, tally);
        state.tally = tally;
    }

    /// Whether a UDP port's addresses or endpoints changed since the last `udp_view`.
    pub(crate) const fn udp_changed(&self) -> bool {
        self.udp_changed
    }

    /// Every address and port that UDP service ports own, and who may answer there, as of the last plan.
    pub(crate) fn udp_view(&mut self, node: NodeAddresses) -> View {
        self.udp_changed = false;
        let (mut addresses, mut node_ports) = (HashMap::new(), HashMap::new());
        for name in &self.udp {
            let Some(state) = self.states.get(name) else { continue };
            let Some(target) = &state.target else { continue };
            for (claim, _) in claims_of(self.family, &state.service, state.port()) {
                match claim {
                    _ if !self.claims.owns(claim, name) => {}
                    Claim::Address(ip, _, port) => _ = addresses.insert(SocketAddr::new(ip, port), target.clone()),
                    Claim::NodePort(_, port) => _ = node_ports.insert(port, target.clone()),
                }
            }
        }
        View::new(self.family, addresses, node_ports, node)
    }

    /// Ports that another port keeps from an address, as of the last plan.
    pub(crate) fn conflicts(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        if self.claims.all_uncontested() {
            return found;
        }
        for (name, state) in &self.states {
            for (claim, title) in claims_of(self.family, &state.service, state.port()) {
                let Some(owner) = self.claims.owner(claim).filter(|owner| *owner != name) else { continue };
                let value = match claim {
                    Claim::Address(ip, protocol, port) => {
                        format!("{} {}", SocketAddr::new(ip, port), protocol.name())
                    }
                    Claim::NodePort(protocol, port) => format!("{port} {}", protocol.name()),
                };
                let field = match title {
                    Title::ClusterIp => "spec.clusterIPs",
                    Title::LoadBalancer => "status.loadBalancer.ingress",
                    Title::External => "spec.externalIPs",
                    Title::NodePort => "spec.ports[].nodePort",
                };
                found.push(Problem {
                    object: format!("Service {}", state.key),
                    field: field.into(),
                    value,
                    reason: format!("belongs to {} already: {} has no rule for it", owner.as_str(), name.as_str())
                        .into(),
                    kind: ProblemKind::Conflict,
                });
            }
        }
        found
    }
}

fn claims_of(family: Family, service: &Service, port: &ServicePort) -> Vec<(Claim, Title)> {
    let address = |ip| Claim::Address(ip, port.protocol, port.port);
    let cluster = service.cluster_ips[family.index()].into_iter().map(|ip| (address(ip), Title::ClusterIp));
    let balancer = service.load_balancer_ips_of(family).map(|ip| (address(ip), Title::LoadBalancer));
    let external = service.external_ips_of(family).map(|ip| (address(ip), Title::External));
    let node_port = port.node_port.map(|n| (Claim::NodePort(port.protocol, n), Title::NodePort));
    cluster.chain(balancer).chain(external).chain(node_port).collect()
}

fn shares(
    ctx: &Context<'_>,
    view: &PortView<'_>,
    reach: Reach,
    digester: &Digester,
    lines: &mut Lines,
) -> Box<[Share]> {
    let mut shares: Vec<Share> = Vec::with_capacity(3);
    dispatch_rules(ctx, view, reach, &mut |chain, rule| {
        let Some(key) = Claim::of_rule(&rule) else { return };
        let nth = shares.iter().filter(|s| s.chain == chain && s.key == key).count();
        let nth = u8::try_from(nth).unwrap_or(u8::MAX);
        let rank = if chain.table() == Table::Nat { nth } else { 0 };
        let digest = lines.add(|out| rule.write_to(ctx.family, out), &rule, |line| digester.ranked(rank, line));
        shares.push(Share { chain, key, nth, digest });
    });
    shares.into()
}
