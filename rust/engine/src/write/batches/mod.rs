//! Orders a [`Changeset`] into `iptables-restore` text and splits it into transactions.
//!
//! Each table is one block: declarations (which create a chain or empty it), rules, entry jumps, deletions, COMMIT. It
//! is atomic, so the order inside it is free and chosen for the legacy tool's speed. Deletions come last, because the
//! rules that reference the chains must be removed first. Tables are independent transactions, filter first (see
//! [`Table`]).
//!
//! **Ordered blocks.** The nft tool takes time quadratic in the chains that one block names: it keeps the names in a
//! sorted list and scans it from the front for every command. A large write of nat is therefore split into blocks, each
//! a transaction, in an order that keeps every state between two of them valid:
//!
//! 1. chains that only others jump to (KUBE-MARK-MASQ, KUBE-POSTROUTING, the canary),
//! 2. endpoint chains: no rule jumps to a new one yet,
//! 3. Service chains, all chains of a port in one block, those of its balancing tree first: their targets exist, and a
//!    tree chain is never combined with a root for other endpoints,
//! 4. chains of dispatch trees, children before parents: any mix of old and new ones is correct (see `tree`),
//! 5. dispatch chains and entry jumps: from here on traffic reaches the new Services, and uses the new layout,
//! 6. stale chains that foreign rules reference: only emptied,
//! 7. deletions: no rule references these chains any more.
//!
//! Inside a block names are in descending order, each declaration next to its rules, so that every look-up ends at the
//! head of the list. The kernel has no such list, so over netlink blocks are larger. The sizes were measured: every
//! COMMIT costs the kernel a pass over all chains of the table (40 ms at 150,000) and, if it contains a rule, over all
//! reachable rules to validate them (ten times that), which favours few blocks. Service chains name their endpoints in
//! arbitrary order, which favours small ones. Blocks of 300 to 600 Service chains cost the least at any table size;
//! 1,200 cost twice as much, 2,400 seven times.

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

/// Serialises a changeset as text, which is empty when there is nothing to write. `standing` is the number of ferrule's
/// chains in the kernel.
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
            // The order depends on the strategy, not on the size of the write: the same state yields the same rules.
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

/// Returns the position among declarations and rules of a block for the legacy tool. The tool keeps chains in a list
/// sorted by name and scans it for every few hundred new ones: sorted names make the list sequential in memory. It also
/// keeps all names in 512 hash lists, the latest first, and scans one of them for each rule's target: the target of
/// half of all rules is therefore declared last.
fn legacy_order(id: ChainId) -> (bool, [u8; NAME_LIMIT]) {
    (id == ChainId::Fixed(FixedChain::MarkMasq), id.name_key())
}
