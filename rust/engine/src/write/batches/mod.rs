//! [`Changeset`] into `iptables-restore` text.
//!
//! A table's part is one block: declarations (which create a chain or empty it), rules, hooks, deletions, COMMIT. It
//! takes effect as a whole, so order inside it is free: what the legacy tool reads fastest. Deletions come last, since
//! the rules that pointed there must be gone. Tables are independent transactions, filter first (see [`Table`]).
//!
//! **Ordered blocks.** The nft tool is quadratic in the chains that one block names: it keeps the names in a sorted list
//! and walks it from the front for every command. So a large write of nat is cut into blocks, each a transaction, in an
//! order that keeps every moment between two of them valid:
//!
//! 1. what others jump to and nothing else (KUBE-MARK-MASQ, KUBE-POSTROUTING, the canary),
//! 2. endpoint chains: no rule jumps to a new one yet,
//! 3. Service chains, all of a port's in one block, parts of its balancing chains first: what they jump to exists, and a
//!    part never meets a chain that knew it with other endpoints, or none,
//! 4. parts of dispatch trees, children before parents: any mix of old and new ones is right (see `tree`),
//! 5. dispatch chains and hooks: from here on traffic finds the new Services, and takes the new way to the old ones,
//! 6. stale chains that foreign rules reference: only emptied,
//! 7. deletions: nothing points there any more.
//!
//! Inside a block names come in descending order, each declaration next to its rules: then every look-up ends at the
//! list's head. The kernel has no such list, so over netlink blocks are larger. Sizes are measured: every COMMIT costs the kernel a walk over all chains of the table (40 ms at
//! 150,000) and, with a rule in it, over all rules that packets can reach, to validate them (ten times that), so few
//! blocks; Service chains name their endpoints in no order, so small ones. Blocks of 300 to 600 of them cost the least,
//! however much stands in the table; 1,200 cost twice that, 2,400 seven times.

mod dispatch_order;
mod limits;
mod ordered;

#[cfg(test)]
mod tests;

use crate::model::names::{ChainId, FixedChain, NAME_LIMIT, Prefix, Table};
use crate::options::WriteStrategy;
use crate::write::batches::dispatch_order::{by_target, dispatch_rules};
use crate::write::batches::limits::Limits;
use crate::write::batches::ordered::ordered_blocks;
use crate::write::changeset::{Changeset, TableChanges};
use crate::write::restore_text::{RestoreText, Strategy};

/// Puts a changeset into text, which is empty when there is nothing to write. `standing` is the number of our chains in
/// the kernel.
pub(crate) fn restore_text(changeset: Changeset<'_>, strategy: WriteStrategy, standing: usize) -> RestoreText {
    let limits = match strategy {
        WriteStrategy::Netlink => Limits::NETLINK,
        WriteStrategy::OneBlock | WriteStrategy::OrderedBlocks => Limits::of_tool(standing),
    };
    let mut tables = changeset.tables;
    for part in &mut tables {
        let start = part.text.len();
        part.text.append(&mut part.entry_jumps);
        part.entry_jump_lines = start..part.text.len();
    }
    let steps = tables
        .iter()
        .map(|t| {
            2 * (t.chains.len() + t.tree_chains.len() + t.emptied.len() + t.deletions.len()) + t.dispatch_rules() + 64
        })
        .sum();
    let buffers = tables.each_mut().map(|part| std::mem::take(&mut part.text));
    let mut text = RestoreText::over(buffers, steps);
    if strategy == WriteStrategy::OneBlock {
        text.strategy = Strategy::WholeTable;
    }
    for (table, part) in Table::ALL.into_iter().zip(tables) {
        if part.is_empty() {
            continue;
        }
        // Each rule of a tree names another chain.
        let ways = part.tree_chains.iter().map(|p| 1 + p.count).sum::<usize>();
        let names = part.chains.len() + ways + part.emptied.len() + part.deletions.len();
        let jumping = part.chains.iter().filter(|c| !matches!(c.id, ChainId::Hashed(Prefix::Sep, _)));
        let targets = jumping.map(|c| c.count).sum();
        let over = [(names, limits.small), (targets, limits.small_targets)].into_iter().find(|(n, limit)| n > limit);
        if let (WriteStrategy::OrderedBlocks | WriteStrategy::Netlink, Some((names, limit))) = (strategy, over) {
            text.strategy = Strategy::Ordered { table, names, limit, netlink: strategy == WriteStrategy::Netlink };
            ordered_blocks(table, part, limits, &mut text);
        } else {
            one_block(table, part, strategy, &mut text);
        }
    }
    text
}

fn one_block(table: Table, mut part: TableChanges, strategy: WriteStrategy, text: &mut RestoreText) {
    let legacy = strategy == WriteStrategy::OneBlock;
    let parts = part.tree_chains.iter().map(|p| p.id);
    let dispatch = part.dispatch.iter().map(|d| ChainId::Fixed(d.chain));
    let written = part.chains.iter().map(|c| c.id).chain(parts).chain(dispatch);
    let stale = part.deletions.iter().chain(&part.emptied).copied();
    let mut declared: Vec<ChainId> = stale.chain(written).collect();
    if legacy {
        declared.sort_by_cached_key(|&id| legacy_order(id));
        part.chains.sort_by_cached_key(|chain| legacy_order(chain.id));
    }
    text.block(table, "all", |out| {
        if part.creates_firewall {
            out.declare_firewall();
        }
        for id in declared {
            out.declare(id);
        }
        for chain in &part.chains {
            out.lines(table, chain.rules.clone(), chain.count);
        }
        for part_of_tree in &part.tree_chains {
            out.lines(table, part_of_tree.rules.clone(), part_of_tree.count);
        }
        for mut chain in part.dispatch {
            // The order is the strategy's, not the write's size's: same state, same rules.
            if !legacy {
                by_target(&mut chain.rules);
            }
            dispatch_rules(table, &chain, out);
        }
        out.lines(table, part.entry_jump_lines, 0);
        for &id in &part.deletions {
            out.delete(id);
        }
    });
}

/// Position among declarations and rules of a block for the legacy tool. It keeps chains in a list in order of names,
/// which it walks every few hundred new ones: names that come in that order lie in memory as they lie in the list. And
/// it keeps all names in 512 lists, the latest first, one of which it walks for each rule's target: the target of half
/// of all rules is declared last.
fn legacy_order(id: ChainId) -> (bool, [u8; NAME_LIMIT]) {
    (id == ChainId::Fixed(FixedChain::MarkMasq), id.name_key())
}
