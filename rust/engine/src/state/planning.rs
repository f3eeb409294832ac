//! Plans the write of what differs between the desired and the applied state of one family.
//!
//! The cost is proportional to the change: a touched Service is rendered again, its chains are compared by digest, and
//! its contribution to each dispatch chain's digest is replaced. All Services are iterated only for a flat dispatch
//! chain that differs; of a tree, only the chains that differ are written.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::PlanError;
use crate::model::names::{ChainId, FixedChain, PortName};
use crate::model::store::Store;
use crate::options::{Options, WriteStrategy};
use crate::rules::digest::Digester;
use crate::rules::dispatch_tree::chains::TreeChain;
use crate::rules::entry_jumps::{EntryJump, entry_jumps};
use crate::rules::ruleset::{Context, NodeFacts, dispatch_tail, fixed_rules};
use crate::state::family::FamilyState;
use crate::state::lifecycle::{Event, Extent, ForeignChains, InFlight};
use crate::state::plan::Plan;
use crate::state::rendering::Inputs;
use crate::write::batches::restore_text;
use crate::write::changeset::Changeset;
use crate::write::rendered_rules::RenderedRules;

/// What a plan consists of besides its text.
struct Contents {
    ports: BTreeSet<PortName>,
    tree_chains: Vec<TreeChain>,
    entry_jumps: Vec<EntryJump>,
    creates_firewall: bool,
    first_stage: bool,
    /// See [`Plan::full`].
    full: bool,
}

impl FamilyState {
    /// Plans the write of what differs. Returns `None` if nothing does.
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
        let creates_firewall = !self.lifecycle.may_plan()?.firewall_exists;
        let facts = NodeFacts::of(self.family, options, store.node(), local_addresses);
        let mut ports = self.refresh(store, &facts);
        let full = self.delta.nothing_applied() || matches!(self.lifecycle.extent, Extent::FirstStage(_));
        let first_stage = self.keep_first(&mut ports, options);
        let mut changeset = Changeset::new(self.family, digester);
        let inputs = Inputs { store, options, facts: &facts, digester };
        let tree_chains = self.render(&ports, &inputs, &mut changeset);
        let entry_jumps = self.missing(&facts);
        if creates_firewall {
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
        if changeset.is_empty() {
            self.lifecycle.step(Event::NothingToWrite(facts))?;
            return Ok(None);
        }
        let contents = Contents { ports, tree_chains, entry_jumps, creates_firewall, first_stage, full };
        self.launch(changeset, contents, strategy, facts).map(Some)
    }

    /// Makes the plan of a changeset, and awaits its outcome from here on.
    fn launch(
        &mut self,
        changeset: Changeset<'_>,
        contents: Contents,
        strategy: WriteStrategy,
        facts: NodeFacts,
    ) -> Result<Plan, PlanError> {
        let Contents { ports, tree_chains, entry_jumps, creates_firewall, first_stage, full } = contents;
        let (written, deleted) = (Arc::from(changeset.written()), Arc::from(changeset.deleted()));
        self.generation += 1;
        let plan = Plan {
            family: self.family,
            generation: self.generation,
            written: Arc::clone(&written),
            deleted: Arc::clone(&deleted),
            entry_jumps_inserted: entry_jumps.iter().map(|jump| self.describe(jump)).collect(),
            rules_written: changeset.rules.iter().sum(),
            rules_by_table: changeset.rules,
            write_strategy: strategy,
            text: restore_text(changeset, strategy, self.delta.counts().1),
            full,
            more: first_stage,
        };
        let foreign = (creates_firewall || !entry_jumps.is_empty()).then(|| self.foreign_chains(&facts));
        let generation = self.generation;
        let in_flight = InFlight { generation, written, deleted, ports, tree_chains, first_stage, foreign };
        self.lifecycle.step(Event::Planned(facts, in_flight))?;
        Ok(plan)
    }

    /// Returns the foreign chains as a confirmed plan leaves them.
    fn foreign_chains(&self, facts: &NodeFacts) -> ForeignChains {
        let wanted = entry_jumps(self.family, facts.localhost_node_ports).into_iter();
        let entry_jumps = wanted.map(|jump| (jump.table, jump.chain.to_owned(), jump.rule)).collect();
        ForeignChains { entry_jumps, firewall_exists: true }
    }

    /// At a large start over an empty kernel, reduces the ports to render to those of the first stage; the next plan
    /// contains the rest. Returns whether it did. Never after a plan of all ports: see [`Extent::Everything`].
    fn keep_first(&mut self, touched: &mut BTreeSet<PortName>, options: &Options) -> bool {
        let begun = matches!(self.lifecycle.extent, Extent::Everything(_));
        if begun || !self.delta.nothing_applied() || self.ports.expected_chains() <= options.first_stage_above {
            return false;
        }
        let first: Vec<_> = touched.iter().filter(|name| self.ports.is_first(name, options)).cloned().collect();
        if first.is_empty() || first.len() == touched.len() {
            return false;
        }
        touched.retain(|name| first.binary_search(name).is_err());
        self.unconfirmed = std::mem::replace(touched, BTreeSet::from_iter(first));
        true
    }

    /// Takes the changes of the store. Returns the ports to render.
    fn refresh(&mut self, store: &mut Store, facts: &NodeFacts) -> BTreeSet<PortName> {
        let mut dirty = store.take_dirty(self.family);
        let everything = dirty.everything || self.lifecycle.facts() != Some(facts);
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

    /// Renders ports and fixed chains. Returns the chains of dispatch trees that are written.
    fn render(
        &mut self,
        ports: &BTreeSet<PortName>,
        inputs: &Inputs<'_>,
        changeset: &mut Changeset<'_>,
    ) -> Vec<TreeChain> {
        for name in ports {
            self.ports.render(name, inputs, &mut self.delta, changeset);
        }
        let tree_chains = self.ports.write_trees(inputs, &mut self.delta, changeset);
        self.fixed_chains(inputs, changeset);
        tree_chains
    }

    /// Renders the chains that do not belong to a service port: dispatch, masquerade, forwarding, canaries.
    fn fixed_chains(&mut self, inputs: &Inputs<'_>, changeset: &mut Changeset<'_>) {
        let mut flat = Vec::new();
        self.fixed = [0; 3];
        for &chain in FixedChain::ALL {
            if chain.is_dispatch() {
                flat.extend(self.dispatch_chain(chain, inputs, changeset));
                continue;
            }
            let rules = fixed_rules(&self.context(inputs), chain);
            self.fixed[chain.table() as usize] += rules.len();
            let (id, delta) = (ChainId::Fixed(chain), &mut self.delta);
            changeset.chain(id, &rules, |digest| {
                delta.want(id, digest);
                delta.differs(id)
            });
        }
        if !flat.is_empty() {
            let ctx = self.ports.context(inputs.options, inputs.facts);
            self.ports.write_flat(&ctx, &flat, changeset);
        }
    }

    /// Renders a dispatch chain if it differs. Returns it if its rules are those of all ports, which are still to be
    /// written.
    fn dispatch_chain(
        &mut self,
        chain: FixedChain,
        inputs: &Inputs<'_>,
        changeset: &mut Changeset<'_>,
    ) -> Option<FixedChain> {
        let id = ChainId::Fixed(chain);
        let tail = if chain == FixedChain::NatServices { dispatch_tail(&self.context(inputs)) } else { Vec::new() };
        let dispatch = self.ports.dispatch_chains();
        self.fixed[chain.table() as usize] += dispatch.jumps(chain) + tail.len();
        let mut digest = dispatch.digest(chain);
        let mut line = Vec::new();
        for rule in &tail {
            line.clear();
            rule.write_to(self.family, &mut line);
            digest.add(inputs.digester.ranked(0, &line));
        }
        self.delta.want(id, digest);
        if !self.delta.differs(id) {
            return None;
        }
        changeset.open(chain);
        let tree = dispatch.tree_rules(chain);
        let is_flat = tree.is_none();
        for rule in tree.into_iter().flatten() {
            changeset.dispatch(chain, &rule);
        }
        for rule in &tail {
            changeset.dispatch_tail(chain, rule);
        }
        is_flat.then_some(chain)
    }

    fn context<'a>(&'a self, inputs: &Inputs<'a>) -> Context<'a> {
        self.ports.context(inputs.options, inputs.facts)
    }
}
