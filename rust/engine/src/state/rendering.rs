//! Renders service ports: their chains and their rules in dispatch chains, into a changeset.

use crate::model::candidates;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, PortName, Protocol, Table};
use crate::model::store::Store;
use crate::model::topology::{Reach, choose};
use crate::options::Options;
use crate::rules::digest::Digester;
use crate::rules::dispatch_tree::chains::{DispatchRule, TreeChain};
use crate::rules::dispatch_tree::node::{Entry, NodeKind};
use crate::rules::rule::Rule;
use crate::rules::ruleset::{Context, NodeFacts, PortView, Sink, dispatch_rules, port_chains};
use crate::state::delta::Delta;
use crate::state::port_state::Tally;
use crate::state::ports::Ports;
use crate::write::changeset::Changeset;
use crate::write::rendered_rules::RenderedRules;

/// The inputs of rendering besides the port itself.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) store: &'a Store,
    pub(crate) options: &'a Options,
    pub(crate) facts: &'a NodeFacts,
    pub(crate) digester: &'a Digester,
}

/// Forwards rendered chains to the changeset and the delta.
struct PlanSink<'a, 'b> {
    delta: &'a mut Delta,
    changeset: &'a mut Changeset<'b>,
    chains: Vec<ChainId>,
    rules: [usize; 3],
}

impl Sink for PlanSink<'_, '_> {
    fn chain(&mut self, id: ChainId, rules: &[Rule]) {
        let delta = &mut *self.delta;
        self.changeset.chain(id, rules, |digest| {
            delta.want(id, digest);
            delta.differs(id)
        });
        self.chains.push(id);
        self.rules[id.table() as usize] += rules.len();
    }
}

impl Ports {
    /// Renders a port's chains and dispatch rules; `changeset` keeps the chains that differ.
    pub(crate) fn render(
        &mut self,
        name: &PortName,
        inputs: &Inputs<'_>,
        delta: &mut Delta,
        changeset: &mut Changeset<'_>,
    ) {
        let Inputs { store, options, facts, digester } = *inputs;
        let Some(state) = self.states.get_mut(name) else { return };
        let service = state.service.clone();
        let port = &service.ports[state.index];
        let Some(view) = PortView::new(self.family, name, &service, port) else { return };
        let ctx = Context { family: self.family, options, facts, claims: &self.claims, large: self.large };
        let candidates = candidates::of_port(store.slices_of(&state.key), self.family, &port.name, port.protocol);
        let (reach, picks) = choose(&candidates, view.policies, facts.zone.as_deref());
        if port.protocol == Protocol::Udp {
            self.udp_changed |= state.update_serving(&candidates);
        }

        let mut sink = PlanSink {
            delta: &mut *delta,
            changeset: changeset.next_port(),
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

        let dispatch_rules = rendered_dispatch_rules(&ctx, &view, reach, digester, &mut changeset.rendered);
        self.dispatch_chains.replace(name, &state.dispatch_rules, &dispatch_rules);
        for rule in &dispatch_rules {
            rules[rule.chain.table() as usize] += 1;
        }
        state.dispatch_rules = dispatch_rules;
        let orphaned = reach.any && !reach.local && view.policies.use_local();
        let policies = [view.policies.internal_local, view.policies.external_local];
        let tally = Tally { rules, orphaned: policies.map(|local| usize::from(orphaned && local)) };
        self.tally.replace(state.tally, tally);
        state.tally = tally;
    }

    /// Brings the dispatch trees up to date after the ports were rendered, and writes their chains that differ.
    pub(crate) fn write_trees(
        &mut self,
        inputs: &Inputs<'_>,
        delta: &mut Delta,
        changeset: &mut Changeset<'_>,
    ) -> Vec<TreeChain> {
        let chains = self.update_trees(inputs, delta);
        let ctx = self.context(inputs.options, inputs.facts);
        for &chain in &chains {
            let Some(node) = self.dispatch_chains.find(chain) else { continue };
            let table = chain.root.table();
            changeset.open_tree_chain(node.id, chain.prefix.len);
            match &node.kind {
                NodeKind::Inner { .. } => {
                    node.jumps(chain.root).iter().for_each(|rule| changeset.tree_rule(table, rule));
                }
                NodeKind::Leaf(entries) => {
                    for entry in entries {
                        if !changeset.tree_rule_rendered(table, entry.digest)
                            && let Some(rule) = self.rule_of(&ctx, chain.root, entry)
                        {
                            changeset.tree_rule(table, &rule);
                        }
                    }
                }
            }
        }
        chains
    }

    /// Passes the trees' changes on to `delta`. Returns the chains that must be written, children before parents.
    fn update_trees(&mut self, inputs: &Inputs<'_>, delta: &mut Delta) -> Vec<TreeChain> {
        let states = &self.states;
        let rules = || states.iter().map(|(name, state)| (name, &*state.dispatch_rules));
        for id in self.dispatch_chains.update_layout(self.family, inputs.options, inputs.digester, rules) {
            delta.unwant(id);
        }
        let changes = self.dispatch_chains.take_changes();
        for id in changes.removed {
            delta.unwant(id);
        }
        let mut differing = Vec::new();
        for (chain, id, digest) in changes.changed {
            delta.want(id, digest);
            if delta.differs(id) {
                differing.push(chain);
            }
        }
        differing
    }

    /// Renders one rule of a dispatch chain again.
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

    /// Writes every port's rules in these flat dispatch chains, ports in name order. Skips ports that have none or were not
    /// rendered yet, for which it is unknown what can be reached.
    pub(crate) fn write_flat(&self, ctx: &Context<'_>, chains: &[FixedChain], changeset: &mut Changeset<'_>) {
        for (name, state) in self.states.iter().filter(|(_, state)| !state.dispatch_rules.is_empty()) {
            let mine = || state.dispatch_rules.iter().filter(|rule| chains.contains(&rule.chain));
            if mine().all(|rule| changeset.rendered.get(rule.digest).is_some()) {
                mine().for_each(|rule| changeset.dispatch_rule_rendered(rule.chain, rule.key, rule.digest));
            } else if let Some(view) = PortView::new(self.family, name, &state.service, state.port()) {
                dispatch_rules(ctx, &view, state.reach, &mut |chain, rule| {
                    if chains.contains(&chain) {
                        changeset.dispatch(chain, &rule);
                    }
                });
            }
        }
    }
}

/// Renders a port's dispatch rules to compute their digests; their text stays in `rendered` for this plan.
fn rendered_dispatch_rules(
    ctx: &Context<'_>,
    view: &PortView<'_>,
    reach: Reach,
    digester: &Digester,
    rendered: &mut RenderedRules,
) -> Box<[DispatchRule]> {
    let mut rules: Vec<DispatchRule> = Vec::with_capacity(3);
    dispatch_rules(ctx, view, reach, &mut |chain, rule| {
        let Some(key) = Claim::of_rule(&rule) else { return };
        let nth = rules.iter().filter(|r| r.chain == chain && r.key == key).map(|_| 1).sum();
        let rank = if chain.table() == Table::Nat { nth } else { 0 };
        let digest = rendered.add(|out| rule.write_to(ctx.family, out), &rule, |text| digester.ranked(rank, text));
        rules.push(DispatchRule { chain, key, nth, digest });
    });
    rules.into()
}
