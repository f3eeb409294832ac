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
//! 6. deletions: nothing points there any more.
//!
//! Inside a block names come in descending order, each declaration next to its rules: then every look-up ends at the
//! list's head. The kernel has no such list, so over netlink blocks are larger. Sizes are measured: every COMMIT costs the kernel a walk over all chains of the table (40 ms at
//! 150,000) and, with a rule in it, over all rules that packets can reach, to validate them (ten times that), so few
//! blocks; Service chains name their endpoints in no order, so small ones. Blocks of 300 to 600 of them cost the least,
//! however much stands in the table; 1,200 cost twice that, 2,400 seven times.

use std::cmp::Reverse;

use hashbrown::HashMap;

use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, NAME_LIMIT, Prefix, Table};
use crate::options::WriteStrategy;
use crate::write::changeset::{
    Changeset, TableChanges, WrittenChain, WrittenDispatchChain, WrittenDispatchRule, WrittenTreeChain,
};
use crate::write::restore_text::{RestoreText, Strategy};

/// Where a write is cut.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Up to this many chains a table's part stays one block whatever the strategy.
    small: usize,
    /// …nor may its Service chains have more rules than this: each may name another endpoint's chain.
    small_targets: usize,
    /// Endpoint chains a block. They name only themselves and KUBE-MARK-MASQ, in order, so a block may be large.
    endpoints: usize,
    /// Service chains a block…
    services: usize,
    /// …and fewer where their rules name more chains than usual: Services of many endpoints.
    services_names: usize,
    /// Rules of dispatch trees a block. They name Service chains in no order.
    parts: usize,
    /// Deletions a block.
    deletions: usize,
    /// Whether names come in descending order. If not, what packets meet one after the other lies together in the
    /// kernel's memory, which makes its validation (a walk over all of it) faster by a tenth.
    by_name: bool,
}

impl Limits {
    /// For the nft tool. In one block of 400 the quadratic term is still small (about 10 ms; of rules that name others, a
    /// twentieth of a second), and every so many chains that stand already, it may be one more: there, a COMMIT costs
    /// more than a larger block does.
    const fn of_tool(standing: usize) -> Self {
        Self {
            small: 400 + standing / 150,
            small_targets: 2000,
            endpoints: 10_000,
            services: 600,
            services_names: 4000,
            parts: 3000,
            deletions: 5000,
            by_name: true,
        }
    }

    /// For the kernel alone. No size costs it more than the sum of its parts, but meanwhile nobody else in the namespace
    /// can change rules (ten thousand take a tenth of a second), and a datagram is held twice (half a kB a rule). Of what
    /// packets already reach, every transaction validates everything: so what 1,000 Services may need is one.
    const NETLINK: Self = Self {
        small: 25_000,
        small_targets: 50_000,
        endpoints: 5000,
        services: 5000,
        services_names: 15_000,
        parts: 15_000,
        deletions: 25_000,
        by_name: false,
    };
}

/// Put everything into text; nothing at all when there is nothing to write. `standing`: chains of ours in the kernel.
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
        .map(|t| 2 * (t.chains.len() + t.tree_chains.len() + t.deletions.len()) + t.dispatch_rules() + 64)
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
        let names = part.chains.len() + ways + part.deletions.len();
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
    let mut declared: Vec<ChainId> = part.deletions.iter().copied().chain(written).collect();
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

fn ordered_blocks(table: Table, part: TableChanges, limits: Limits, text: &mut RestoreText) {
    let (mut first, mut endpoints, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for chain in part.chains {
        match chain.id {
            ChainId::Fixed(_) => first.push(chain),
            ChainId::Hashed(Prefix::Sep, _) => endpoints.push(chain),
            ChainId::Hashed(..) | ChainId::Balance(_) | ChainId::Dispatch(..) => services.push(chain),
        }
    }
    let chains = |of: &[WrittenChain], out: &mut RestoreText| {
        for chain in of {
            out.declare(chain.id);
            out.lines(table, chain.rules.clone(), chain.count);
        }
    };
    if !first.is_empty() || part.creates_firewall {
        text.block(table, "first", |out| {
            if part.creates_firewall {
                out.declare_firewall();
            }
            chains(&first, out);
        });
    }

    if limits.by_name {
        endpoints.sort_by_cached_key(|chain| Reverse(chain.id.name_key()));
    }
    for block in endpoints.chunks(limits.endpoints) {
        text.block(table, "endpoints", |out| chains(block, out));
    }
    drop(endpoints);

    for block in port_blocks(&mut services, limits) {
        if limits.by_name {
            block.sort_by_cached_key(|chain| (jumping_order(chain.id), Reverse(chain.id.name_key())));
        } else {
            block.sort_by_key(|chain| jumping_order(chain.id));
        }
        text.block(table, "services", |out| chains(block, out));
    }
    drop(services);

    let mut parts = part.tree_chains;
    parts.sort_by_cached_key(|p| Reverse((p.depth, p.id.name_key())));
    for block in part_blocks(&parts, limits) {
        text.block(table, "dispatch parts", |out| {
            for part_of_tree in block {
                out.declare(part_of_tree.id);
                out.lines(table, part_of_tree.rules.clone(), part_of_tree.count);
            }
        });
    }

    if !part.dispatch.is_empty() || !part.entry_jump_lines.is_empty() {
        text.block(table, "dispatch", |out| {
            // They jump to each other, and the tool takes no jump to what it has not seen yet: all declared first.
            for chain in &part.dispatch {
                out.declare(ChainId::Fixed(chain.chain));
            }
            for mut chain in part.dispatch {
                by_target(&mut chain.rules);
                dispatch_rules(table, &chain, out);
            }
            out.lines(table, part.entry_jump_lines, 0);
        });
    }

    // Who jumps goes before who is jumped to, so that a block never deletes what a later one still uses.
    let mut deletions = part.deletions;
    deletions.sort_by_cached_key(|&id| (Reverse(jumping_order(id)), Reverse(id.name_key())));
    // Parts of trees jump to each other: all of them at once, and first.
    let parts = deletions.partition_point(|id| matches!(id, ChainId::Dispatch(..)));
    let (parts, rest) = deletions.split_at(parts);
    for block in Some(parts).filter(|p| !p.is_empty()).into_iter().chain(rest.chunks(limits.deletions)) {
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

/// Position in the order of who jumps to whom: endpoint chains to none, the firewall chain through all others.
const fn jumping_order(id: ChainId) -> u8 {
    match id {
        ChainId::Fixed(_) => 0,
        // Levels are five bits: deeper parts come earlier.
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

/// Cut Service chains into blocks by what they name, never between two of one port (which arrive side by side).
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

/// Cut parts of trees into blocks by the rules in them.
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

/// Dispatch lines by target, descending; lines that one packet could match stay in their order, behind the first.
fn by_target(lines: &mut [WrittenDispatchRule]) {
    let mut first_target: HashMap<Claim, Option<ChainId>> = HashMap::with_capacity(lines.len());
    for line in &mut *lines {
        if let Some(key) = line.key {
            line.target = *first_target.entry(key).or_insert(line.target);
        }
    }
    lines.sort_by_cached_key(|line| Reverse(line.target.map(ChainId::name_key)));
}

fn dispatch_rules(table: Table, chain: &WrittenDispatchChain, out: &mut RestoreText) {
    for line in &chain.rules {
        out.lines(table, line.rule.clone(), 1);
    }
    for tail in &chain.tail {
        out.lines(table, tail.clone(), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::Family;
    use crate::model::names::{PortName, Protocol};
    use crate::rules::digest::Digester;
    use crate::rules::rule::{Rule, Target};

    const CHAIN: ChainId = ChainId::Fixed(FixedChain::Forward);

    fn text(changeset: Changeset<'_>, strategy: WriteStrategy) -> String {
        String::from_utf8(restore_text(changeset, strategy, 0).to_vec()).unwrap()
    }

    #[test]
    fn an_empty_text_is_empty() {
        let digester = Digester::new([0; 16]);
        let mut changeset = Changeset::new(Family::V4, &digester);
        changeset.chain(CHAIN, &[Rule::default().target(Target::Drop)], |_| false);
        assert!(changeset.is_empty());
        assert_eq!((changeset.rules, changeset.written().len()), ([0; 3], 0));
        assert!(restore_text(changeset, WriteStrategy::OrderedBlocks, 0).is_empty());
    }

    #[test]
    fn a_block_declares_fills_and_deletes() {
        let digester = Digester::new([0; 16]);
        let changeset = || {
            let mut changeset = Changeset::new(Family::V6, &digester);
            changeset.delete(ChainId::Fixed(FixedChain::ProxyFirewall));
            changeset.chain(CHAIN, &[Rule::default().target(Target::Reject)], |_| true);
            changeset
        };
        let (deleted, written) = (":KUBE-PROXY-FIREWALL - [0:0]\n", ":KUBE-FORWARD - [0:0]\n");
        for (strategy, declared) in [
            (WriteStrategy::OneBlock, [written, deleted].concat()),
            (WriteStrategy::OrderedBlocks, [deleted, written].concat()),
        ] {
            let rule = "-A KUBE-FORWARD -j REJECT --reject-with icmp6-port-unreachable\n";
            let want = ["*filter\n", &declared, rule, "-X KUBE-PROXY-FIREWALL\nCOMMIT\n"].concat();
            assert_eq!(text(changeset(), strategy), want);
        }
        assert_eq!(changeset().rules.iter().sum::<usize>(), 1);
    }

    /// Each port with an endpoint chain, a balancing chain that jumps there, and a dispatch rule.
    fn cluster(digester: &Digester, ports: usize) -> Changeset<'_> {
        let mut changeset = Changeset::new(Family::V4, digester);
        changeset.open(FixedChain::NatServices);
        changeset.open(FixedChain::NatNodePorts);
        let tail = Rule::default().jump(ChainId::Fixed(FixedChain::NatNodePorts));
        changeset.dispatch_tail(FixedChain::NatServices, &tail);
        for n in 0..ports {
            let port = PortName::new(&format!("ns/s{n}"), "", Protocol::Tcp);
            let (sep, svc) =
                (ChainId::Hashed(Prefix::Sep, port.endpoint_hash("x")), ChainId::Hashed(Prefix::Svc, port.hash()));
            let ext = ChainId::Hashed(Prefix::Ext, port.hash());
            changeset.next_port();
            changeset.chain(sep, &[Rule::default().jump(ChainId::Fixed(FixedChain::MarkMasq))], |_| true);
            changeset.chain(svc, &[Rule::default().jump(sep)], |_| true);
            changeset.chain(ext, &[Rule::default().jump(svc)], |_| true);
            changeset.dispatch(FixedChain::NatServices, &Rule::default().jump(ext));
        }
        changeset.chain(ChainId::Fixed(FixedChain::MarkMasq), &[Rule::default().target(Target::Return)], |_| true);
        changeset
    }

    #[test]
    fn ordered_blocks_never_jump_to_what_no_earlier_line_made() {
        let digester = Digester::new([0; 16]);
        let result = text(cluster(&digester, 2000), WriteStrategy::OrderedBlocks);
        let mut known = hashbrown::HashSet::new();
        for line in result.lines() {
            if let Some(declared) = line.strip_prefix(':') {
                known.insert(declared.split(' ').next().unwrap());
            } else if let Some((_, target)) = line.split_once(" -j KUBE-") {
                let target = format!("KUBE-{target}");
                assert!(known.contains(target.as_str()), "{target} is jumped to before it exists");
            }
        }
        let blocks = result.matches("COMMIT\n").count();
        // first, one of endpoints, 4,000 Service chains in sevens of 600, dispatch.
        assert_eq!(blocks, 1 + 1 + 7 + 1);
        assert_eq!(text(cluster(&digester, 2000), WriteStrategy::OneBlock).matches("COMMIT").count(), 1);
    }

    #[test]
    fn a_small_write_is_one_block_and_strategies_say_the_same() {
        let digester = Digester::new([0; 16]);
        let blocks =
            |ports, standing| restore_text(cluster(&digester, ports), WriteStrategy::OrderedBlocks, standing).blocks();
        assert_eq!((blocks(20, 0), blocks(400, 0), blocks(400, 150_000), blocks(500, 150_000)), (1, 5, 1, 5));
        // Few chains, but they name many.
        let many_endpoints = |ports| {
            let mut changeset = Changeset::new(Family::V4, &digester);
            for n in 0..ports {
                let port = PortName::new(&format!("ns/s{n}"), "", Protocol::Tcp);
                let to = |i| ChainId::Hashed(Prefix::Sep, port.endpoint_hash(&format!("{i}")));
                let rules: Vec<Rule> = (0..100).map(|i| Rule::default().jump(to(i))).collect();
                changeset.next_port();
                changeset.chain(ChainId::Hashed(Prefix::Svc, port.hash()), &rules, |_| true);
            }
            restore_text(changeset, WriteStrategy::OrderedBlocks, 0).blocks()
        };
        assert_eq!((many_endpoints(20), many_endpoints(21), many_endpoints(45)), (1, 1, 2));
        let lines = |strategy| {
            let text = text(cluster(&digester, 500), strategy);
            let mut lines: Vec<String> =
                text.lines().filter(|l| l.starts_with(['-', ':'])).map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(lines(WriteStrategy::OneBlock), lines(WriteStrategy::OrderedBlocks));
    }

    #[test]
    fn the_legacy_tool_reads_names_in_order_and_the_most_wanted_last() {
        let digester = Digester::new([0; 16]);
        let text = text(cluster(&digester, 500), WriteStrategy::OneBlock);
        let nat = &text[text.find("*nat").unwrap()..];
        let declared: Vec<&str> = nat.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).collect();
        let (last, rest) = declared.split_last().unwrap();
        assert!(*last == "KUBE-MARK-MASQ" && rest.len() > 1500);
        assert!(rest.is_sorted());
        let ruled: Vec<&str> = nat.lines().filter_map(|line| line.strip_prefix("-A ")?.split(' ').next()).collect();
        let dispatch = ruled.iter().position(|&name| name == "KUBE-SERVICES").unwrap();
        assert!(ruled[..dispatch - 1].is_sorted());
    }

    #[test]
    fn deletions_go_from_who_jumps_to_who_is_jumped_to() {
        let digester = Digester::new([0; 16]);
        let mut changeset = Changeset::new(Family::V4, &digester);
        for n in 0..4000 {
            let port = PortName::new(&format!("ns/s{n}"), "", Protocol::Tcp);
            changeset.delete(ChainId::Hashed(Prefix::Sep, port.endpoint_hash("x")));
            changeset.delete(ChainId::Hashed(Prefix::Svc, port.hash()));
        }
        let text = text(changeset, WriteStrategy::OrderedBlocks);
        assert_eq!(text.matches("COMMIT").count(), 2);
        assert!(text.rfind("-X KUBE-SVC-").unwrap() < text.find("-X KUBE-SEP-").unwrap());
    }

    #[test]
    fn parts_are_deleted_after_the_parts_that_jump_there() {
        let digester = Digester::new([0; 16]);
        let mut changeset = Changeset::new(Family::V4, &digester);
        for n in 0..3000 {
            let root = ChainId::Hashed(Prefix::Svl, PortName::new(&format!("ns/s{n}"), "", Protocol::Tcp).hash());
            for place in [&[1, 2, 3][..], &[1], &[1, 2], &[4]] {
                changeset.delete(ChainId::balance(root, place));
            }
            changeset.delete(root);
        }
        let text = text(changeset, WriteStrategy::OrderedBlocks);
        let kinds = text.lines().filter_map(|line| match line.strip_prefix("-X ")?.strip_prefix("KUBE-SVC-BAL-") {
            Some(part) => part.chars().next(),
            None => Some('A'),
        });
        let mut kinds: Vec<char> = kinds.collect();
        assert_eq!((kinds.len(), text.matches("COMMIT").count()), (15_000, 3));
        assert!(kinds.is_sorted());
        kinds.dedup();
        assert_eq!(kinds, ['A', 'B', 'C', 'D']);
    }
}
