//! Writes dispatch chains in the order of their targets.

use std::cmp::Reverse;

use hashbrown::HashMap;

use crate::model::claims::Claim;
use crate::model::names::{ChainId, Table};
use crate::write::changeset::{WrittenDispatchChain, WrittenDispatchRule};
use crate::write::restore_text::RestoreText;

/// Sorts dispatch rules by target, descending. Rules with the same key stay in their order, next to the first of them.
pub(super) fn by_target(lines: &mut [WrittenDispatchRule]) {
    let mut first_target: HashMap<Claim, Option<ChainId>> = HashMap::with_capacity(lines.len());
    for line in &mut *lines {
        if let Some(key) = line.key {
            line.target = *first_target.entry(key).or_insert(line.target);
        }
    }
    lines.sort_by_cached_key(|line| Reverse(line.target.map(ChainId::name_key)));
}

/// Appends the lines of a dispatch chain, its tail last.
pub(super) fn dispatch_rules(table: Table, chain: &WrittenDispatchChain, out: &mut RestoreText) {
    for line in &chain.rules {
        out.lines(table, line.rule.clone(), 1);
    }
    for tail in &chain.tail {
        out.lines(table, tail.clone(), 1);
    }
}
