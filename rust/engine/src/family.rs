//! One family's rule set: from what changed in the store to a plan, and from a plan's outcome back.
//!
//! Cost follows the change: a touched Service is rendered again, its chains are compared by digest, its share of each
//! dispatch chain's digest is swapped. Only a dispatch chain that really differs is walked over all Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::address::Family;
use crate::claims::{Claim, Claims, Title};
use crate::delta::Delta;
use crate::digest::{Digest, Digester};
use crate::endpoints;
use crate::error::{InputError, PlanError};
use crate::hooks::{Hook, hooks};
use crate::names::{ChainId, FixedChain, PortName, Table};
use crate::options::Options;
use crate::plan::Plan;
use crate::problem::{Problem, ProblemKind};
use crate::readback;
use crate::report::DriftReport;
use crate::restore::{RestoreBuilder, append};
use crate::rule::{Match, Rule};
use crate::ruleset::{
    Context, NodeFacts, PortView, Sink, dispatch_rules, dispatch_tail, fixed_rules, port_chains, rank_key,
};
use crate::services::{Service, ServicePort};
use crate::store::Store;
use crate::topology::{Reach, choose};

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
    chains: Box<[ChainId]>,
    shares: Box<[Share]>,
}

/// A port's part in a dispatch chain's digest.
#[derive(Clone, Copy, Debug)]
struct Share {
    chain: FixedChain,
    digest: Digest,
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
        }
    }

    fn port(&self) -> &ServicePort {
        &self.service.ports[self.index]
    }
}

/// The plan whose outcome is awaited.
#[derive(Debug)]
struct InFlight {
    generation: u64,
    written: Vec<ChainId>,
    deleted: Vec<ChainId>,
    hooked: bool,
    ports: BTreeSet<PortName>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FamilyState {
    family: Family,
    ports: BTreeMap<PortName, PortState>,
    ports_of: HashMap<Arc<str>, Vec<PortName>>,
    claims: Claims,
    facts: Option<NodeFacts>,
    endpoints: usize,
    large: bool,
    dispatch: [Digest; FixedChain::ALL.len()],
    delta: Delta,
    /// Ports with chains that may differ from the applied ones although nothing about them changed.
    unconfirmed: BTreeSet<PortName>,
    /// Hooks seen missing; `None`: nobody knows.
    missing_hooks: Option<MissingHooks>,
    observed_hooks: Vec<(Table, String, Rule)>,
    in_flight: Option<InFlight>,
    generation: u64,
}

#[derive(Debug, Default)]
struct MissingHooks {
    firewall: bool,
}

/// Forwards chains to the text builder and the delta.
struct PlanSink<'a, 'b> {
    delta: &'a mut Delta,
    builder: &'a mut RestoreBuilder<'b>,
    chains: Vec<ChainId>,
}

impl Sink for PlanSink<'_, '_> {
    fn chain(&mut self, id: ChainId, rules: &[Rule]) {
        let delta = &mut *self.delta;
        self.builder.chain(id, rules, |digest| {
            delta.want(id, digest);
            delta.differs(id)
        });
        self.chains.push(id);
    }
}

impl FamilyState {
    pub(crate) fn new(family: Family) -> Self {
        Self {
            family,
            ports: BTreeMap::new(),
            ports_of: HashMap::new(),
            claims: Claims::default(),
            facts: None,
            endpoints: 0,
            large: false,
            dispatch: [Digest::EMPTY_SET; FixedChain::ALL.len()],
            delta: Delta::default(),
            unconfirmed: BTreeSet::new(),
            missing_hooks: None,
            observed_hooks: Vec::new(),
            in_flight: None,
            generation: 0,
        }
    }

    // ---------------------------------------------------------------- planning

    pub(crate) fn plan(
        &mut self,
        store: &mut Store,
        options: &Options,
        digester: &Digester,
        local_addresses: &[IpAddr],
    ) -> Result<Option<Plan>, PlanError> {
        if let Some(kind) = store.missing() {
            return Err(PlanError::NotListed(kind.name()));
        }
        if self.in_flight.is_some() {
            return Err(PlanError::InFlight);
        }
        let Some(firewall_missing) = self.missing_hooks.as_ref().map(|m| m.firewall) else {
            return Err(PlanError::NotObserved);
        };
        let facts = NodeFacts::of(self.family, options, store.node(), local_addresses);
        let touched = self.refresh(store, &facts);

        let full = self.delta.nothing_applied();
        let mut builder = RestoreBuilder::new(self.family, digester);
        for name in &touched {
            self.render(name, store, options, &facts, digester, &mut builder);
        }
        self.fixed_chains(options, &facts, digester, &mut builder);
        let hooks = self.missing(&facts);
        if firewall_missing {
            builder.create_firewall();
        }
        for hook in &hooks {
            builder.hook(hook);
        }
        for chain in self.delta.deletable() {
            builder.delete(chain);
        }
        self.facts = Some(facts);

        let text = builder.finish();
        if text.bytes.is_empty() {
            self.unconfirmed.clear();
            return Ok(None);
        }
        self.generation += 1;
        let names = |chains: &[ChainId]| {
            let mut names: Vec<String> = chains.iter().map(ToString::to_string).collect();
            names.sort_unstable();
            names
        };
        let plan = Plan {
            family: self.family,
            generation: self.generation,
            chains_written: names(&text.written),
            chains_deleted: names(&text.deleted),
            hooks_inserted: hooks.iter().map(|h| self.describe(h)).collect(),
            rules_written: text.rules,
            payload: text.bytes,
            full,
        };
        self.in_flight = Some(InFlight {
            generation: self.generation,
            written: text.written,
            deleted: text.deleted,
            hooked: !hooks.is_empty() || firewall_missing,
            ports: touched,
        });
        Ok(Some(plan))
    }

    /// Take over what changed in the store; gives the ports to render.
    fn refresh(&mut self, store: &mut Store, facts: &NodeFacts) -> BTreeSet<PortName> {
        let mut dirty = store.take_dirty(self.family);
        let everything = dirty.everything || self.facts.as_ref() != Some(facts);
        if everything {
            dirty.services.extend(store.service_keys().cloned());
            #[allow(clippy::iter_over_hash_type)] // into an ordered set
            dirty.services.extend(self.ports_of.keys().cloned());
        }
        let mut touched = std::mem::take(&mut self.unconfirmed);
        for key in &dirty.services {
            self.restructure(key, store, &mut touched);
        }
        touched.retain(|name| self.ports.contains_key(name));
        for name in &touched {
            self.recount(name, store);
        }
        let large = self.endpoints > LARGE_CLUSTER_ENDPOINTS;
        if large != self.large {
            self.large = large;
            touched.extend(self.ports.keys().cloned());
        }
        touched
    }

    /// Match a Service's ports and claims to its object.
    fn restructure(&mut self, key: &Arc<str>, store: &Store, touched: &mut BTreeSet<PortName>) {
        let service = store.service(key).filter(|s| s.cluster_ips[self.family.index()].is_some());
        let names: Vec<PortName> = service
            .map_or_else(Vec::new, |s| s.ports.iter().map(|p| PortName::new(key, &p.name, p.protocol)).collect());
        let before = self.ports_of.remove(key).unwrap_or_default();
        for gone in before.iter().filter(|n| !names.contains(n)) {
            self.drop_port(gone, touched);
        }
        let Some(service) = service else { return };
        for (index, name) in names.iter().enumerate() {
            let unchanged = self.ports.get(name).is_some_and(|s| s.index == index && Arc::ptr_eq(&s.service, service));
            if !unchanged {
                let old = self.ports.get(name).map(|s| (s.service.clone(), s.index));
                if let Some((old, at)) = old {
                    self.withdraw(name, &old, at, touched);
                }
                self.enter(name, service, index, touched);
                let update = |state: &mut PortState| {
                    state.service = service.clone();
                    state.index = index;
                };
                self.ports
                    .entry(name.clone())
                    .and_modify(update)
                    .or_insert_with(|| PortState::new(key, service, index));
            }
            touched.insert(name.clone());
        }
        self.ports_of.insert(key.clone(), names);
    }

    fn enter(&mut self, name: &PortName, service: &Service, index: usize, touched: &mut BTreeSet<PortName>) {
        for (claim, title) in claims_of(self.family, service, &service.ports[index]) {
            touched.extend(self.claims.enter(claim, title, name));
        }
    }

    fn withdraw(&mut self, name: &PortName, service: &Service, index: usize, touched: &mut BTreeSet<PortName>) {
        for (claim, title) in claims_of(self.family, service, &service.ports[index]) {
            touched.extend(self.claims.withdraw(claim, title, name));
        }
    }

    fn drop_port(&mut self, name: &PortName, touched: &mut BTreeSet<PortName>) {
        let Some(state) = self.ports.remove(name) else { return };
        self.withdraw(name, &state.service, state.index, touched);
        self.endpoints -= state.endpoints;
        for &chain in &state.chains {
            self.delta.unwant(chain);
        }
        for share in &state.shares {
            self.dispatch[share.chain as usize].subtract(share.digest);
        }
    }

    fn recount(&mut self, name: &PortName, store: &Store) {
        let Some(state) = self.ports.get_mut(name) else { return };
        let now =
            endpoints::of_port(store.slices_of(&state.key), self.family, &state.port().name, name.protocol()).len();
        self.endpoints = self.endpoints - state.endpoints + now;
        state.endpoints = now;
    }

    /// Render a port's chains and dispatch rules; offers the chains to the builder.
    fn render(
        &mut self,
        name: &PortName,
        store: &Store,
        options: &Options,
        facts: &NodeFacts,
        digester: &Digester,
        builder: &mut RestoreBuilder<'_>,
    ) {
        let Some(state) = self.ports.get_mut(name) else { return };
        let service = state.service.clone();
        let port = &service.ports[state.index];
        let Some(view) = PortView::new(self.family, name, &service, port) else { return };
        let ctx = Context { family: self.family, options, facts, claims: &self.claims, large: self.large };
        let candidates = endpoints::of_port(store.slices_of(&state.key), self.family, &port.name, port.protocol);
        let (reach, picks) = choose(&candidates, view.policies, facts.zone.as_deref());

        let mut sink = PlanSink { delta: &mut self.delta, builder, chains: Vec::with_capacity(picks.len() + 3) };
        port_chains(&ctx, &view, reach, &picks, &mut sink);
        let chains = sink.chains;
        for old in state.chains.iter().filter(|c| !chains.contains(c)) {
            self.delta.unwant(*old);
        }
        state.chains = chains.into();
        state.reach = reach;

        let shares = shares(&ctx, &view, reach, digester);
        for old in &state.shares {
            self.dispatch[old.chain as usize].subtract(old.digest);
        }
        for new in &shares {
            self.dispatch[new.chain as usize].add(new.digest);
        }
        state.shares = shares;
    }

    /// Everything that is no service port's own chain: dispatch, masquerade, forwarding, canaries.
    fn fixed_chains(
        &mut self,
        options: &Options,
        facts: &NodeFacts,
        digester: &Digester,
        builder: &mut RestoreBuilder<'_>,
    ) {
        let ctx = Context { family: self.family, options, facts, claims: &self.claims, large: self.large };
        let mut changed = Vec::new();
        for &chain in FixedChain::ALL {
            let id = ChainId::Fixed(chain);
            if !chain.is_dispatch() {
                let delta = &mut self.delta;
                builder.chain(id, &fixed_rules(&ctx, chain), |digest| {
                    delta.want(id, digest);
                    delta.differs(id)
                });
                continue;
            }
            let mut digest = self.dispatch[chain as usize];
            if chain == FixedChain::NatServices {
                let mut line = Vec::new();
                for rule in dispatch_tail(&ctx) {
                    line.clear();
                    append(self.family, id, &rule, &mut line);
                    digest.add(digester.ranked(0, &line));
                }
            }
            self.delta.want(id, digest);
            if self.delta.differs(id) {
                builder.open(id);
                changed.push(chain);
            }
        }
        if changed.is_empty() {
            return;
        }
        for (name, state) in &self.ports {
            let Some(view) = PortView::new(self.family, name, &state.service, state.port()) else { continue };
            dispatch_rules(&ctx, &view, state.reach, &mut |chain, rule| {
                if changed.contains(&chain) {
                    builder.rule(ChainId::Fixed(chain), &rule);
                }
            });
        }
        if changed.contains(&FixedChain::NatServices) {
            for rule in dispatch_tail(&ctx) {
                builder.rule(ChainId::Fixed(FixedChain::NatServices), &rule);
            }
        }
    }

    /// Hooks that the last observation did not show.
    fn missing(&self, facts: &NodeFacts) -> Vec<Hook> {
        let stands = |hook: &Hook| {
            self.observed_hooks
                .iter()
                .any(|(table, chain, rule)| *table == hook.table && chain == hook.chain && same_hook(rule, &hook.rule))
        };
        hooks(self.family, facts.localhost_node_ports).into_iter().filter(|hook| !stands(hook)).collect()
    }

    fn describe(&self, hook: &Hook) -> String {
        let mut text = format!("{} -I {}", hook.table.name(), hook.chain).into_bytes();
        hook.rule.write_to(self.family, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    // ---------------------------------------------------------------- outcomes

    fn take_in_flight(&mut self, plan: &Plan) -> Result<InFlight, PlanError> {
        match self.in_flight.take() {
            Some(in_flight) if in_flight.generation == plan.generation => Ok(in_flight),
            other => {
                self.in_flight = other;
                Err(PlanError::Stale)
            }
        }
    }

    pub(crate) fn commit(&mut self, plan: &Plan) -> Result<(), PlanError> {
        let done = self.take_in_flight(plan)?;
        self.delta.commit(&done.written, &done.deleted);
        if done.hooked {
            let localhost = self.facts.as_ref().is_some_and(|f| f.localhost_node_ports);
            self.observed_hooks =
                hooks(self.family, localhost).into_iter().map(|h| (h.table, h.chain.to_owned(), h.rule)).collect();
            self.missing_hooks = Some(MissingHooks::default());
        }
        Ok(())
    }

    pub(crate) fn abandon(&mut self, plan: &Plan) -> Result<(), PlanError> {
        let failed = self.take_in_flight(plan)?;
        self.delta.abandon(&failed.written, &failed.deleted);
        self.unconfirmed.extend(failed.ports);
        if failed.hooked {
            // Inserting a hook twice would leave two: only a look can tell.
            self.missing_hooks = None;
        }
        Ok(())
    }

    pub(crate) fn observe(&mut self, digester: &Digester, saved: &[u8]) -> Result<DriftReport, InputError> {
        let observed = readback::read(self.family, digester, saved)?;
        let believed = !self.delta.nothing_applied();
        let drift = self.delta.observe(observed.chains, observed.held);
        let had_hooks = self.missing_hooks.is_some() && believed;
        self.observed_hooks = observed.hooks;
        self.missing_hooks = Some(MissingHooks { firewall: !observed.firewall_exists });
        self.in_flight = None;
        for (name, state) in &self.ports {
            if state.chains.iter().any(|&c| self.delta.differs(c)) {
                self.unconfirmed.insert(name.clone());
            }
        }
        let mut report = DriftReport::default();
        // Before the first plan nothing is desired yet, so nothing can be called stale.
        if let Some(facts) = &self.facts {
            let names = |chains: &mut dyn Iterator<Item = ChainId>| chains.map(|c| c.to_string()).collect::<Vec<_>>();
            let stale = self.delta.stale();
            report.stale = names(&mut stale.iter().copied().filter(|&c| !self.delta.is_held(c)));
            report.held = names(&mut stale.iter().copied().filter(|&c| self.delta.is_held(c)));
            report.differing = names(&mut drift.differing.into_iter());
            report.missing = names(&mut drift.missing.into_iter());
            if had_hooks {
                report.hooks_missing = self.missing(facts).iter().map(|h| self.describe(h)).collect();
            }
            for list in [&mut report.stale, &mut report.held, &mut report.differing, &mut report.missing] {
                list.sort_unstable();
            }
        }
        Ok(report)
    }

    // ---------------------------------------------------------------- for people

    /// Ports that another port keeps from an address, as of the last plan.
    pub(crate) fn conflicts(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for (name, state) in &self.ports {
            for (claim, title) in claims_of(self.family, &state.service, state.port()) {
                let Some(owner) = self.claims.owner(claim).filter(|owner| *owner != name) else { continue };
                let value = match claim {
                    Claim::Address(ip, protocol, port) => {
                        format!("{} {}", std::net::SocketAddr::new(ip, port), protocol.name())
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

    pub(crate) fn localhost_node_ports(&self) -> bool {
        self.facts.as_ref().is_some_and(|f| f.localhost_node_ports)
    }

    /// Numbers for a snapshot: ports, endpoints, large mode, (desired, applied, stale) chains.
    pub(crate) fn counts(&self) -> (usize, usize, bool, (usize, usize, usize)) {
        (self.ports.len(), self.endpoints, self.large, self.delta.counts())
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

fn shares(ctx: &Context<'_>, view: &PortView<'_>, reach: Reach, digester: &Digester) -> Box<[Share]> {
    let mut shares: Vec<Share> = Vec::with_capacity(3);
    let mut keys: Vec<(FixedChain, Claim)> = Vec::new();
    let mut line = Vec::with_capacity(192);
    dispatch_rules(ctx, view, reach, &mut |chain, rule| {
        line.clear();
        append(ctx.family, ChainId::Fixed(chain), &rule, &mut line);
        let rank = rank_key(chain, &rule).map_or(0, |key| {
            let earlier = keys.iter().filter(|k| **k == (chain, key)).count();
            keys.push((chain, key));
            u8::try_from(earlier).unwrap_or(u8::MAX)
        });
        let digest = digester.ranked(rank, &line);
        match shares.iter_mut().find(|s| s.chain == chain) {
            Some(share) => share.digest.add(digest),
            None => shares.push(Share { chain, digest }),
        }
    });
    shares.into()
}

/// A jump is the same hook whatever its comment says (another version may word it differently), a rule of
/// KUBE-FIREWALL only if it is equal.
fn same_hook(standing: &Rule, wanted: &Rule) -> bool {
    let bare = |rule: &Rule| {
        let mut rule = rule.clone();
        rule.matches.retain(|m| !matches!(m, Match::Comment(_)));
        rule
    };
    bare(standing) == bare(wanted)
}
