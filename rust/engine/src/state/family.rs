//! The state of one family's rules: turns changes of the store into plans, and applies the outcomes of plans.
//!
//! The cost is proportional to the change: a touched Service is rendered again, its chains are compared by digest, and
//! its contribution to each dispatch chain's digest is replaced. All Services are iterated only for a flat dispatch
//! chain that differs; of a tree, only the chains that differ are written.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::PlanError;
use crate::input::problem::Problem;
use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, PortName, Table};
use crate::model::store::Store;
use crate::netlink::conntrack::{Latest, NodeAddresses, View};
use crate::options::{Options, WriteStrategy};
use crate::read::observed::Observed;
use crate::report::{DriftReport, FamilyFacts};
use crate::rules::digest::Digester;
use crate::rules::dispatch_tree::chains::TreeChain;
use crate::rules::entry_jumps::{EntryJump, entry_jumps};
use crate::rules::matches::Match;
use crate::rules::rule::Rule;
use crate::rules::ruleset::{NodeFacts, dispatch_tail, fixed_rules};
use crate::state::delta::Delta;
use crate::state::plan::Plan;
use crate::state::port_state::Tally;
use crate::state::ports::Ports;
use crate::state::rendering::Inputs;
use crate::write::batches::restore_text;
use crate::write::changeset::Changeset;
use crate::write::rendered_rules::RenderedRules;

/// The plan in flight.
#[derive(Debug)]
struct InFlight {
    generation: u64,
    written: Arc<[ChainId]>,
    deleted: Arc<[ChainId]>,
    inserts_entry_jumps: bool,
    ports: BTreeSet<PortName>,
    tree_chains: Vec<TreeChain>,
    more: bool,
}

/// The state of one family's rules.
#[derive(Debug)]
pub(crate) struct FamilyState {
    family: Family,
    ports: Ports,
    facts: Option<NodeFacts>,
    delta: Delta,
    /// Ports with chains that may differ from the applied ones although the ports did not change.
    unconfirmed: BTreeSet<PortName>,
    /// Entry jumps in the kernel; `None` while they are unknown.
    standing: Option<Standing>,
    in_flight: Option<InFlight>,
    generation: u64,
    /// The sync is complete: the last plan was written and was not a first stage, or there was nothing to write.
    settled: bool,
    /// Ports outside the first stage were rendered; there are no stages from here on.
    begun: bool,
    /// The last plan was a first stage, so the rest must be planned.
    rest_owed: bool,
    tracked: Latest,
    /// Number of rules in chains that do not belong to a port, by table, as of the last plan.
    fixed: [usize; 3],
}

/// Foreign chains as of the last observation or confirmed plan.
#[derive(Debug)]
struct Standing {
    entry_jumps: Vec<(Table, String, Rule)>,
    firewall_exists: bool,
}

impl FamilyState {
    pub(crate) fn new(family: Family, digester: &Digester) -> Self {
        Self {
            family,
            ports: Ports::new(family),
            facts: None,
            delta: Delta::new(digester),
            unconfirmed: BTreeSet::new(),
            standing: None,
            in_flight: None,
            generation: 0,
            settled: false,
            begun: false,
            rest_owed: false,
            tracked: Latest::default(),
            fixed: [0; 3],
        }
    }

    // ---------------------------------------------------------------- planning

    pub(crate) fn plan(
        &mut self,
        store: &mut Store,
        options: &Options,
        strategy: WriteStrategy,
        digester: &Digester,
        local_addresses: &[IpAddr],
    ) -> Result<Option<Plan>, PlanError> {
        if let Some(kind) = store.missing() {
            return Err(PlanError::NotListed(kind.name()));
        }
        if self.in_flight.is_some() {
            return Err(PlanError::InFlight);
        }
        let Some(firewall_missing) = self.standing.as_ref().map(|s| !s.firewall_exists) else {
            return Err(PlanError::NotObserved);
        };
        let facts = NodeFacts::of(self.family, options, store.node(), local_addresses);
        self.settled = false;
        let mut touched = self.refresh(store, &facts);
        let full = self.delta.nothing_applied() || self.rest_owed;
        let more = self.keep_first(&mut touched, options);
        let mut changeset = Changeset::new(self.family, digester);
        let inputs = Inputs { store, options, facts: &facts, digester };
        for name in &touched {
            self.ports.render(name, &inputs, &mut self.delta, &mut changeset);
        }
        let tree_chains = self.ports.write_trees(&inputs, &mut self.delta, &mut changeset);
        self.fixed_chains(options, &facts, digester, &mut changeset);
        let entry_jumps = self.missing(&facts);
        if firewall_missing {
            changeset.create_firewall();
        }
        for jump in &entry_jumps {
            changeset.entry_jump(jump);
        }
        for chain in self.delta.to_empty() {
            changeset.empty(chain);
        }
        for chain in self.delta.deletable() {
            changeset.delete(chain);
        }
        changeset.rendered = RenderedRules::default();
        self.facts = Some(facts);

        if changeset.is_empty() {
            self.settled = true;
            return Ok(None);
        }
        let (written, deleted) = (Arc::from(changeset.written()), Arc::from(changeset.deleted()));
        self.generation += 1;
        let plan = Plan {
            family: self.family,
            generation: self.generation,
            written: Arc::clone(&written),
            deleted: Arc::clone(&deleted),
            entry_jumps_inserted: entry_jumps.iter().map(|h| self.describe(h)).collect(),
            rules_written: changeset.rules.iter().sum(),
            rules_by_table: changeset.rules,
            write_strategy: strategy,
            text: restore_text(changeset, strategy, self.delta.counts().1),
            full,
            more,
        };
        self.in_flight = Some(InFlight {
            generation: self.generation,
            written,
            deleted,
            inserts_entry_jumps: !entry_jumps.is_empty() || firewall_missing,
            ports: touched,
            tree_chains,
            more,
        });
        Ok(Some(plan))
    }

    /// At a large start over an empty kernel, reduces the ports to render to those of the first stage; the next plan
    /// contains the rest. Only while no other port was ever rendered: a dispatch chain holds the rules of every
    /// rendered port, and may only be written together with their targets.
    fn keep_first(&mut self, touched: &mut BTreeSet<PortName>, options: &Options) -> bool {
        self.rest_owed = false;
        if !self.begun && self.delta.nothing_applied() && self.ports.expected_chains() > options.first_stage_above {
            let first: Vec<_> = touched.iter().filter(|name| self.ports.is_first(name, options)).cloned().collect();
            if !first.is_empty() && first.len() < touched.len() {
                touched.retain(|name| first.binary_search(name).is_err());
                self.unconfirmed = std::mem::replace(touched, BTreeSet::from_iter(first));
                self.rest_owed = true;
                return true;
            }
        }
        self.begun = true;
        false
    }

    /// Takes the changes of the store. Returns the ports to render.
    fn refresh(&mut self, store: &mut Store, facts: &NodeFacts) -> BTreeSet<PortName> {
        let mut dirty = store.take_dirty(self.family);
        let everything = dirty.everything || self.facts.as_ref() != Some(facts);
        if everything {
            dirty.services.extend(store.service_keys().cloned());
            #[allow(clippy::iter_over_hash_type)] // into an ordered set
            dirty.services.extend(self.ports.services().cloned());
        }
        // Building the set from mostly sorted names takes a third of the time of single inserts.
        let mut names = Vec::with_capacity(dirty.services.len());
        for key in &dirty.services {
            self.ports.restructure(key, store, &mut self.delta, &mut names);
        }
        let mut touched = std::mem::take(&mut self.unconfirmed);
        touched.append(&mut BTreeSet::from_iter(names));
        self.ports.recount(&mut touched, store);
        touched
    }

    /// Renders the chains that do not belong to a service port: dispatch, masquerade, forwarding, canaries.
    fn fixed_chains(
        &mut self,
        options: &Options,
        facts: &NodeFacts,
        digester: &Digester,
        changeset: &mut Changeset<'_>,
    ) {
        let ctx = self.ports.context(options, facts);
        let mut flat = Vec::new();
        let mut counts = [0; 3];
        for &chain in FixedChain::ALL {
            let id = ChainId::Fixed(chain);
            if !chain.is_dispatch() {
                let delta = &mut self.delta;
                let rules = fixed_rules(&ctx, chain);
                counts[chain.table() as usize] += rules.len();
                changeset.chain(id, &rules, |digest| {
                    delta.want(id, digest);
                    delta.differs(id)
                });
                continue;
            }
            let mut digest = self.ports.dispatch_chains().digest(chain);
            counts[chain.table() as usize] += self.ports.dispatch_chains().jumps(chain);
            if chain == FixedChain::NatServices {
                let mut line = Vec::new();
                for rule in dispatch_tail(&ctx) {
                    counts[chain.table() as usize] += 1;
                    line.clear();
                    rule.write_to(self.family, &mut line);
                    digest.add(digester.ranked(0, &line));
                }
            }
            self.delta.want(id, digest);
            if self.delta.differs(id) {
                changeset.open(chain);
                match self.ports.dispatch_chains().tree_rules(chain) {
                    Some(rules) => {
                        for rule in rules {
                            changeset.dispatch(chain, &rule);
                        }
                    }
                    None => flat.push(chain),
                }
                if chain == FixedChain::NatServices {
                    for rule in dispatch_tail(&ctx) {
                        changeset.dispatch_tail(chain, &rule);
                    }
                }
            }
        }
        self.fixed = counts;
        if !flat.is_empty() {
            self.ports.write_flat(&ctx, &flat, changeset);
        }
    }

    /// Returns the entry jumps that are missing in the kernel.
    fn missing(&self, facts: &NodeFacts) -> Vec<EntryJump> {
        let stands = |jump: &EntryJump| {
            self.standing.iter().flat_map(|s| &s.entry_jumps).any(|(table, chain, rule)| {
                *table == jump.table && chain == jump.chain && same_entry_jump(rule, &jump.rule)
            })
        };
        entry_jumps(self.family, facts.localhost_node_ports).into_iter().filter(|jump| !stands(jump)).collect()
    }

    fn describe(&self, jump: &EntryJump) -> String {
        let mut text = format!("{} -I {}", jump.table.name(), jump.chain).into_bytes();
        jump.rule.write_to(self.family, &mut text);
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
        self.settled = !done.more;
        self.delta.commit(&done.written, &done.deleted);
        if done.inserts_entry_jumps {
            let localhost = self.facts.as_ref().is_some_and(|f| f.localhost_node_ports);
            let wanted = entry_jumps(self.family, localhost).into_iter();
            let entry_jumps = wanted.map(|h| (h.table, h.chain.to_owned(), h.rule)).collect();
            self.standing = Some(Standing { entry_jumps, firewall_exists: true });
        }
        Ok(())
    }

    pub(crate) fn abandon(&mut self, plan: &Plan) -> Result<(), PlanError> {
        let failed = self.take_in_flight(plan)?;
        self.delta.abandon(&failed.written, &failed.deleted);
        self.unconfirmed.extend(failed.ports);
        for part in failed.tree_chains {
            self.ports.dispatch_chains_mut().mark_dirty(part);
        }
        if failed.inserts_entry_jumps {
            // Inserting an entry jump twice would leave two, so the kernel must be observed first.
            self.standing = None;
        }
        Ok(())
    }

    /// Replaces the applied state by an observation.
    pub(crate) fn observe(&mut self, observed: Observed) -> DriftReport {
        if self.facts.is_none() {
            self.ports.dispatch_chains_mut().found_trees(observed.trees);
        }
        let believed = !self.delta.nothing_applied();
        let drift = self.delta.observe(observed.chains, observed.held);
        let were_known = self.standing.is_some() && believed;
        self.standing = Some(Standing { entry_jumps: observed.entry_jumps, firewall_exists: observed.firewall_exists });
        self.in_flight = None;
        self.unconfirmed.extend(self.ports.differing(&self.delta).cloned());
        self.ports.dispatch_chains_mut().mark_dirty_where(|id| self.delta.differs(id));
        let mut report = DriftReport::default();
        // Before the first plan there is no desired state, so no chain is stale.
        if let Some(facts) = &self.facts {
            let names = |chains: &mut dyn Iterator<Item = ChainId>| chains.map(|c| c.to_string()).collect::<Vec<_>>();
            let stale = self.delta.stale();
            report.stale = names(&mut stale.iter().copied().filter(|&c| !self.delta.is_held(c)));
            report.held = names(&mut stale.iter().copied().filter(|&c| self.delta.is_held(c)));
            report.differing = names(&mut drift.differing.into_iter());
            report.missing = names(&mut drift.missing.into_iter());
            if were_known {
                report.entry_jumps_missing = self.missing(facts).iter().map(|h| self.describe(h)).collect();
            }
            for list in [&mut report.stale, &mut report.held, &mut report.differing, &mut report.missing] {
                list.sort_unstable();
            }
        }
        report
    }

    // ---------------------------------------------------------------- tracked flows

    /// Returns what makes a UDP flow stale. Returns `None` if nothing relevant changed since the last view, or while
    /// the last plan is not confirmed: a deleted flow would then be created again with the old translation.
    pub(crate) fn conntrack_view(&mut self, local_addresses: &[IpAddr]) -> Option<Arc<View>> {
        let facts = self.facts.as_ref().filter(|_| self.settled)?;
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

    /// Those of one address.
    pub(crate) fn conflicts_on(&self, claim: Claim) -> impl Iterator<Item = Problem> {
        self.ports.conflicts_on(claim)
    }

    /// The addresses whose conflicts may have changed since the last call.
    pub(crate) fn take_contest_changes(&mut self) -> BTreeSet<Claim> {
        self.ports.take_contest_changes()
    }

    pub(crate) fn localhost_node_ports(&self) -> bool {
        self.facts.as_ref().is_some_and(|f| f.localhost_node_ports)
    }

    /// Returns counts for metrics, as of the last plan.
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
            node_port_addresses: self.facts.as_ref().and_then(NodeFacts::node_port_addresses),
            held,
        }
    }

    /// Returns counts for a snapshot: ports, endpoints, large mode, (desired, applied, stale) chains.
    pub(crate) fn counts(&self) -> (usize, usize, bool, (usize, usize, usize)) {
        {
            let (ports, endpoints, large) = self.ports.counts();
            (ports, endpoints, large, self.delta.counts())
        }
    }
}

/// Returns whether two rules are the same entry jump: jumps regardless of their comments (another version may word them
/// differently), rules of KUBE-FIREWALL only if they are equal.
fn same_entry_jump(standing: &Rule, wanted: &Rule) -> bool {
    let bare = |rule: &Rule| {
        let mut rule = rule.clone();
        rule.matches.retain(|m| !matches!(m, Match::Comment(_)));
        rule
    };
    bare(standing) == bare(wanted)
}
