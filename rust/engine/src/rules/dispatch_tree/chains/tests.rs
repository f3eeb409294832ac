use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::model::names::Protocol;
use crate::options::TreeLimits;

const ROOT: FixedChain = FixedChain::NatServices;
const LIMITS: TreeLimits = TreeLimits { grow: 4, shrink: 2, leaf: 2, depth: 5 };

fn port() -> PortName {
    PortName::new("ns/a", "", Protocol::Tcp)
}

/// The rule of the address 10.96.0.`n`.
fn rule(chain: FixedChain, n: u8) -> DispatchRule {
    let key = Claim::Address(IpAddr::V4(Ipv4Addr::new(10, 96, 0, n)), Protocol::Tcp, 80);
    DispatchRule { chain, key, nth: 0, digest: Digester::new([1; 16]).ranked(0, &[n]) }
}

fn rules(numbers: std::ops::Range<u8>) -> Vec<DispatchRule> {
    numbers.map(|n| rule(ROOT, n)).collect()
}

/// Dispatch chains with the rules of one port, which tests replace.
struct Bench {
    chains: DispatchChains,
    rules: Vec<DispatchRule>,
    options: Options,
}

impl Bench {
    fn new(layout: ChainLayout) -> Self {
        let mut options = Options::new("node-1");
        options.dispatch = layout;
        options.tree_limits = LIMITS;
        Self { chains: DispatchChains::default(), rules: Vec::new(), options }
    }

    /// Replaces all rules and converts to the layout that they ask for. Returns the chains that were dissolved.
    fn replace(&mut self, rules: Vec<DispatchRule>) -> Vec<ChainId> {
        self.chains.replace(&port(), &self.rules, &rules);
        self.rules = rules;
        let (port, digester) = (port(), Digester::new([0; 16]));
        self.chains.update_layout(Family::V4, &self.options, &digester, || [(&port, &self.rules[..])].into_iter())
    }

    fn is_tree(&self) -> bool {
        self.chains.tree_rules(ROOT).is_some()
    }

    fn sum(&self) -> Digest {
        let mut sum = Digest::EMPTY_SET;
        self.rules.iter().for_each(|rule| sum.add(rule.digest));
        sum
    }
}

#[test]
fn auto_turns_to_trees_above_one_number_and_back_below_another() {
    let mut bench = Bench::new(ChainLayout::Auto);
    for (count, tree) in [(0, false), (4, false), (5, true), (4, true), (2, true), (1, false), (2, false), (4, false)] {
        bench.replace(rules(0..count));
        assert_eq!(bench.is_tree(), tree, "{count} rules");
    }
}

#[test]
fn the_rules_of_all_chains_count_together() {
    let mut bench = Bench::new(ChainLayout::Auto);
    let mut all = rules(0..3);
    all.extend((0..2).map(|n| rule(FixedChain::FilterServices, n)));
    bench.replace(all);
    assert!(bench.is_tree());
}

#[test]
fn between_the_numbers_a_restart_keeps_what_the_kernel_holds() {
    for found in [true, false] {
        let mut bench = Bench::new(ChainLayout::Auto);
        bench.chains.found_trees(found);
        bench.replace(rules(0..3));
        assert_eq!(bench.is_tree(), found);
    }
}

#[test]
fn a_fixed_layout_ignores_the_number_of_rules() {
    for (layout, tree) in [(ChainLayout::Flat, false), (ChainLayout::Tree, true)] {
        let mut bench = Bench::new(layout);
        for count in [0, 3, 9] {
            bench.replace(rules(0..count));
            assert_eq!(bench.is_tree(), tree, "{count} rules");
        }
    }
}

#[test]
fn a_flat_chain_has_the_sum_of_its_rules_and_no_jumps() {
    let mut bench = Bench::new(ChainLayout::Flat);
    for range in [0..3, 1..4, 0..0] {
        bench.replace(rules(range));
        assert_eq!((bench.chains.digest(ROOT), bench.chains.jumps(ROOT)), (bench.sum(), 0));
    }
    assert_eq!(bench.chains.digest(ROOT), Digest::EMPTY_SET);
}

#[test]
fn a_tree_that_changed_equals_a_tree_that_was_built() {
    let mut grown = Bench::new(ChainLayout::Tree);
    for range in [0..40, 10..30, 10..31] {
        grown.replace(rules(range));
    }
    let mut built = Bench::new(ChainLayout::Tree);
    built.replace(rules(10..31));
    assert_eq!(grown.chains.digest(ROOT), built.chains.digest(ROOT));
    assert_ne!(grown.chains.digest(ROOT), grown.sum(), "the root holds jumps, not rules");
    assert_eq!(grown.chains.jumps(ROOT), built.chains.jumps(ROOT));
    assert!(grown.chains.jumps(ROOT) > 1);
    assert_eq!(grown.chains.tree_rules(ROOT).map(|rules| rules.len()), Some(2), "of 16 addresses each");
    assert_eq!(grown.chains.jumps(FixedChain::FilterServices), 0, "each rule is in its own chain only");
}

#[test]
fn changes_are_taken_once_and_children_come_before_parents() {
    let mut bench = Bench::new(ChainLayout::Tree);
    bench.replace(rules(0..40));
    let changes = bench.chains.take_changes();
    assert_eq!(changes.changed.len(), bench.chains.jumps(ROOT));
    assert!(changes.removed.is_empty());
    let lengths: Vec<u8> = changes.changed.iter().map(|(chain, ..)| chain.prefix.len).collect();
    assert!(lengths.is_sorted_by(|a, b| a >= b) && lengths[0] > lengths[lengths.len() - 1]);
    for (chain, id, digest) in &changes.changed {
        let node = bench.chains.find(*chain).unwrap();
        assert_eq!((node.id, node.digest), (*id, *digest));
    }
    let again = bench.chains.take_changes();
    assert!(again.changed.is_empty() && again.removed.is_empty());
}

#[test]
fn a_removed_chain_is_reported_and_no_longer_found() {
    let mut bench = Bench::new(ChainLayout::Tree);
    bench.replace(rules(0..40));
    let before = bench.chains.take_changes().changed;
    bench.replace(rules(0..16));
    let removed = bench.chains.take_changes().removed;
    let (standing, gone): (Vec<_>, Vec<_>) = before.iter().partition(|(chain, ..)| bench.chains.find(*chain).is_some());
    assert!(!standing.is_empty() && !gone.is_empty());
    assert!(gone.iter().all(|(_, id, _)| removed.contains(id)));
}

#[test]
fn chains_with_an_unknown_outcome_are_changes_again() {
    let mut bench = Bench::new(ChainLayout::Tree);
    bench.replace(rules(0..40));
    let all = bench.chains.take_changes().changed;
    let (chain, id, digest) = all[0];
    bench.chains.mark_dirty(chain);
    let marked = bench.chains.take_changes().changed;
    assert_eq!(marked.iter().map(|(_, id, digest)| (*id, *digest)).collect::<Vec<_>>(), [(id, digest)]);
    bench.chains.mark_dirty_where(|dirty| dirty == id);
    assert_eq!(bench.chains.take_changes().changed.len(), 1);
    bench.chains.mark_dirty_where(|_| true);
    assert_eq!(bench.chains.take_changes().changed.len(), all.len());
}

#[test]
fn a_dissolved_tree_names_every_chain_that_the_kernel_may_hold() {
    let mut bench = Bench::new(ChainLayout::Auto);
    bench.replace(rules(0..40));
    let standing: Vec<ChainId> = bench.chains.take_changes().changed.into_iter().map(|(_, id, _)| id).collect();
    // Removed since the last plan, then dissolved: both kinds have to be deleted.
    bench.chains.replace(&port(), &bench.rules.clone(), &rules(0..16));
    bench.rules = rules(0..16);
    let dissolved = bench.replace(rules(0..1));
    assert!(standing.iter().all(|id| dissolved.contains(id)));
    assert!(!bench.is_tree());
    assert!(bench.replace(rules(0..1)).is_empty(), "there is nothing left to dissolve");
}
