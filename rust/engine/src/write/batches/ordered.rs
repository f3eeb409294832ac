//! Splits a large write into transactions, in an order that keeps every state between two of them valid.

use std::cmp::Reverse;
use std::ops::Range;

use crate::model::names::{ChainId, Prefix, Table};
use crate::write::batches::dispatch_order::{by_target, dispatch_rules};
use crate::write::batches::limits::Limits;
use crate::write::changeset::{TableChanges, WrittenChain, WrittenDispatchChain, WrittenTreeChain};
use crate::write::restore_text::RestoreText;

/// Writes a table as several transactions, in the order that the parent module documents.
pub(super) fn ordered_blocks(table: Table, changes: TableChanges, limits: Limits, text: &mut RestoreText) {
    let (mut first, mut endpoints, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for chain in changes.chains {
        match chain.id {
            ChainId::Fixed(_) => first.push(chain),
            ChainId::Hashed(Prefix::Sep, _) => endpoints.push(chain),
            ChainId::Hashed(..) | ChainId::Balance(_) | ChainId::Dispatch(..) => services.push(chain),
        }
    }
    if !first.is_empty() || changes.creates_firewall {
        text.block(table, "first", |out| {
            if changes.creates_firewall {
                out.declare_firewall();
            }
            write_chains(table, &first, out);
        });
    }
    endpoint_blocks(table, endpoints, limits, text);
    service_blocks(table, services, limits, text);
    tree_blocks(table, changes.tree_chains, limits, text);
    dispatch_block(table, changes.dispatch, changes.entry_jump_lines, text);
    if !changes.emptied.is_empty() {
        text.block(table, "emptied", |out| changes.emptied.iter().for_each(|&id| out.declare(id)));
    }
    deletion_blocks(table, changes.deletions, limits, text);
}

fn write_chains(table: Table, chains: &[WrittenChain], out: &mut RestoreText) {
    for chain in chains {
        out.declare(chain.id);
        out.lines(table, chain.rules.clone(), chain.count);
    }
}

fn endpoint_blocks(table: Table, mut endpoints: Vec<WrittenChain>, limits: Limits, text: &mut RestoreText) {
    if limits.by_name {
        endpoints.sort_by_cached_key(|chain| Reverse(chain.id.name_key()));
    }
    for block in endpoints.chunks(limits.endpoints) {
        text.block(table, "endpoints", |out| write_chains(table, block, out));
    }
}

fn service_blocks(table: Table, mut services: Vec<WrittenChain>, limits: Limits, text: &mut RestoreText) {
    for block in port_blocks(&mut services, limits) {
        if limits.by_name {
            block.sort_by_cached_key(|chain| (jumping_order(chain.id), Reverse(chain.id.name_key())));
        } else {
            block.sort_by_key(|chain| jumping_order(chain.id));
        }
        text.block(table, "services", |out| write_chains(table, block, out));
    }
}

fn tree_blocks(table: Table, mut chains: Vec<WrittenTreeChain>, limits: Limits, text: &mut RestoreText) {
    chains.sort_by_cached_key(|chain| Reverse((chain.depth, chain.id.name_key())));
    for block in part_blocks(&chains, limits) {
        text.block(table, "dispatch parts", |out| {
            for chain in block {
                out.declare(chain.id);
                out.lines(table, chain.rules.clone(), chain.count);
            }
        });
    }
}

fn dispatch_block(
    table: Table,
    dispatch: Vec<WrittenDispatchChain>,
    entry_jumps: Range<usize>,
    text: &mut RestoreText,
) {
    if dispatch.is_empty() && entry_jumps.is_empty() {
        return;
    }
    text.block(table, "dispatch", |out| {
        // They jump to each other, and the tool rejects a jump to a chain that was not declared: all declared first.
        for chain in &dispatch {
            out.declare(ChainId::Fixed(chain.chain));
        }
        for mut chain in dispatch {
            by_target(&mut chain.rules);
            dispatch_rules(table, &chain, out);
        }
        out.lines(table, entry_jumps, 0);
    });
}

fn deletion_blocks(table: Table, mut deletions: Vec<ChainId>, limits: Limits, text: &mut RestoreText) {
    // A chain that jumps precedes its targets, so that no block deletes what a later one still uses.
    deletions.sort_by_cached_key(|&id| (Reverse(jumping_order(id)), Reverse(id.name_key())));
    // Chains of trees jump to each other: all of them in one block, and first.
    let trees = deletions.partition_point(|id| matches!(id, ChainId::Dispatch(..)));
    let (trees, rest) = deletions.split_at(trees);
    for block in Some(trees).filter(|block| !block.is_empty()).into_iter().chain(rest.chunks(limits.deletions)) {
        text.block(table, "deletions", |out| {
            for &id in block {
                out.declare(id);
            }
            for &id in block {
                out.delete(id);
            }
        });
    }
}

/// Returns the position in the jump order: endpoint chains jump to none, the firewall chain reaches all others.
const fn jumping_order(id: ChainId) -> u8 {
    match id {
        ChainId::Fixed(_) => 0,
        // Levels are five bits: chains at a deeper level come earlier.
        ChainId::Balance(part) => 33 - ChainId::balance_level(part),
        ChainId::Dispatch(..) => 38,
        ChainId::Hashed(prefix, _) => match prefix {
            Prefix::Sep => 1,
            Prefix::Svc => 34,
            Prefix::Svl => 35,
            Prefix::Ext => 36,
            Prefix::Fw => 37,
        },
    }
}

/// Splits Service chains into blocks by the chains they name, never between two chains of one port (which are
/// adjacent).
fn port_blocks(chains: &mut [WrittenChain], limits: Limits) -> impl Iterator<Item = &mut [WrittenChain]> {
    let (mut size, mut names) = (0, 0);
    chains.chunk_by_mut(move |one, next| {
        (size, names) = (size + 1, names + 1 + one.count);
        let together = one.port == next.port || (size < limits.services && names < limits.services_names);
        if !together {
            (size, names) = (0, 0);
        }
        together
    })
}

/// Splits tree chains into blocks by the number of their rules.
fn part_blocks(parts: &[WrittenTreeChain], limits: Limits) -> Vec<&[WrittenTreeChain]> {
    let mut blocks = Vec::new();
    let (mut start, mut rules) = (0, 0);
    for (at, part) in parts.iter().enumerate() {
        rules += part.count;
        if rules >= limits.parts || at + 1 == parts.len() {
            blocks.push(&parts[start..=at]);
            (start, rules) = (at + 1, 0);
        }
    }
    blocks
}
