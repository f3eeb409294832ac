//! `iptables-save` output into observed state: which of our chains exist, with which digests, and which hooks stand.
//!
//! A rule is parsed and written again in canonical form before it is digested, so a tool that spells a rule
//! differently makes no difference. A rule of one of our chains that cannot be parsed makes the chain "different":
//! it will be rewritten, never interpreted.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use crate::address::Family;
use crate::claims::Claim;
use crate::digest::{Digest, Digester, TextHasher};
use crate::error::InputError;
use crate::hooks::FIREWALL;
use crate::names::{ChainId, FixedChain, Table};
use crate::rule::{Rule, Target};
use crate::rule_parse::parse;
use crate::ruleset::rank_key;
use crate::writes::append;

/// What the kernel holds, as far as it concerns us.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) chains: HashMap<ChainId, Digest>,
    /// Our chains that rules in others' chains jump to (hooks aside).
    pub(crate) held: BTreeSet<ChainId>,
    /// Rules of the kernel's own chains and of KUBE-FIREWALL that could be ours.
    pub(crate) hooks: Vec<(Table, String, Rule)>,
    pub(crate) firewall_exists: bool,
    /// Dispatch chains lead on to parts of themselves.
    pub(crate) trees: bool,
}

/// Digest of a chain whose rules arrive line by line.
enum Accumulator {
    Ordered(TextHasher),
    Dispatch { chain: ChainId, sum: Digest, ranks: HashMap<Claim, u8>, tail_seen: bool },
}

impl Accumulator {
    fn new(id: ChainId, digester: &Digester) -> Self {
        let dispatches = match id {
            ChainId::Fixed(chain) => chain.is_dispatch(),
            ChainId::Dispatch(..) => true,
            ChainId::Hashed(..) | ChainId::Balance(_) => false,
        };
        if dispatches {
            Self::Dispatch { chain: id, sum: Digest::EMPTY_SET, ranks: HashMap::new(), tail_seen: false }
        } else {
            Self::Ordered(digester.stream())
        }
    }

    fn rule(&mut self, family: Family, digester: &Digester, id: ChainId, rule: &Rule, text: &mut Vec<u8>) {
        text.clear();
        match self {
            Self::Ordered(hasher) => {
                append(family, id, rule, text);
                hasher.update(text);
            }
            Self::Dispatch { chain, sum, ranks, tail_seen } => {
                let is_tail = is_tail(*chain, rule);
                if *tail_seen && !is_tail {
                    // Unreachable behind the node port jump: the same set of rules, another meaning.
                    sum.add(digester.text(b"a rule behind the tail"));
                }
                *tail_seen |= is_tail;
                let rank = rank_key(chain.table(), Claim::of_rule(rule)).map_or(0, |key| {
                    let next = ranks.entry(key).or_default();
                    let rank = *next;
                    *next = next.saturating_add(1);
                    rank
                });
                rule.write_to(family, text);
                sum.add(digester.ranked(rank, text));
            }
        }
    }

    /// A rule we would never have written.
    fn foreign(&mut self, digester: &Digester, line: &[u8]) {
        match self {
            Self::Ordered(hasher) => {
                hasher.update(b"foreign ");
                hasher.update(line);
            }
            Self::Dispatch { sum, .. } => {
                sum.add(digester.text(b"foreign "));
                sum.add(digester.text(line));
            }
        }
    }

    fn finish(self) -> Digest {
        match self {
            Self::Ordered(hasher) => hasher.finish(),
            Self::Dispatch { sum, .. } => sum,
        }
    }
}

fn is_tail(chain: ChainId, rule: &Rule) -> bool {
    chain == ChainId::Fixed(FixedChain::NatServices)
        && rule.target == Some(Target::Jump(ChainId::Fixed(FixedChain::NatNodePorts)))
}

/// Read what `iptables-save` (of all tables) printed.
pub(crate) fn read(family: Family, digester: &Digester, saved: &[u8]) -> Result<Observed, InputError> {
    let mut observed = Observed::default();
    let mut building: HashMap<ChainId, Accumulator> = HashMap::new();
    let mut table: Option<(Option<Table>, &[u8])> = None;
    let mut line_again = Vec::new();
    for line in saved.split(|&b| b == b'\n') {
        if let Some(name) = line.strip_prefix(b"*") {
            if let Some((_, open)) = table {
                return Err(cut_short(open));
            }
            table = Some((Table::parse(name), name));
        } else if line == b"COMMIT" {
            table = None;
        } else if let Some((Some(table), _)) = table {
            if let Some(rest) = line.strip_prefix(b":") {
                let name = rest.split(|&b| b == b' ').next().unwrap_or_default();
                if let Some(id) = ChainId::parse(table, name) {
                    building.entry(id).or_insert_with(|| Accumulator::new(id, digester));
                } else if table == Table::Filter && name == FIREWALL.as_bytes() {
                    observed.firewall_exists = true;
                }
                continue;
            }
            let Some(rest) = without_counters(line).strip_prefix(b"-A ") else { continue };
            let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
            let (name, body) = rest.split_at(end);
            let rule = std::str::from_utf8(body).ok().and_then(|text| parse(family, table, text));
            let Some(id) = ChainId::parse(table, name) else {
                foreign_chain(&mut observed, table, name, body, rule);
                continue;
            };
            let chain = building.entry(id).or_insert_with(|| Accumulator::new(id, digester));
            match rule {
                Some(rule) => {
                    chain.rule(family, digester, id, &rule, &mut line_again);
                    let part = matches!(rule.target, Some(Target::Jump(ChainId::Dispatch(..))));
                    observed.trees |= part && matches!(id, ChainId::Fixed(_));
                }
                None => chain.foreign(digester, line),
            }
        }
    }
    if let Some((_, open)) = table {
        return Err(cut_short(open));
    }
    #[allow(clippy::iter_over_hash_type)] // from one map into another
    for (id, chain) in building {
        observed.chains.insert(id, chain.finish());
    }
    Ok(observed)
}

fn cut_short(table: &[u8]) -> InputError {
    InputError::Saved { reason: format!("table {} has no COMMIT", String::from_utf8_lossy(table)) }
}

/// `[packets:bytes] ` in front of a rule (`iptables-save -c`).
fn without_counters(line: &[u8]) -> &[u8] {
    match line.strip_prefix(b"[").and_then(|rest| memchr::memmem::find(rest, b"] ").map(|at| &rest[at + 2..])) {
        Some(rest) => rest,
        None => line,
    }
}

/// A rule in a chain that is not ours: a hook, or one that holds a chain of ours.
fn foreign_chain(observed: &mut Observed, table: Table, name: &[u8], body: &[u8], rule: Option<Rule>) {
    match rule {
        Some(rule)
            if matches!(rule.target, Some(Target::Jump(ChainId::Fixed(_)) | Target::JumpFirewall | Target::Drop)) =>
        {
            observed.hooks.push((table, String::from_utf8_lossy(name).into_owned(), rule));
        }
        _ => {
            let mut words = body.split(|&b| b == b' ').filter(|w| !w.is_empty());
            while let Some(word) = words.next() {
                if word == b"-j" || word == b"-g" {
                    observed.held.extend(words.next().and_then(|target| ChainId::parse(table, target)));
                }
            }
        }
    }
}
