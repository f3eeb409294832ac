//! What a look at the kernel shows: which of our chains exist, with which digests, and which hooks stand.
//!
//! Two ways lead here: `readback` from text, `nft` from netlink. Both make typed rules, and a rule is written in canonical
//! form before it is digested, so that it makes no difference which way it came or how a tool spells it.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, Table};
use crate::rules::digest::{Digest, Digester, TextHasher, is_order_free};
use crate::rules::rule::{Rule, Target};
use crate::rules::ruleset::rank_key;
use crate::rules::save_format::print::append_line;

/// What the kernel holds, as far as it concerns us.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) chains: HashMap<ChainId, Digest>,
    /// Our chains that foreign rules reference, hooks aside, each with the foreign chain of one such rule.
    pub(crate) held: BTreeMap<ChainId, Box<str>>,
    /// Rules of the kernel's own chains and of KUBE-FIREWALL that could be ours.
    pub(crate) hooks: Vec<(Table, String, Rule)>,
    pub(crate) firewall_exists: bool,
    /// Dispatch chains lead on to parts of themselves.
    pub(crate) trees: bool,
}

impl Observed {
    /// A chain of ours jumps to `rule`'s target.
    pub(crate) fn ours(&mut self, id: ChainId, rule: &Rule) {
        let part = matches!(rule.target, Some(Target::Jump(ChainId::Dispatch(..))));
        self.trees |= part && matches!(id, ChainId::Fixed(_));
    }

    /// A rule in a chain that is not ours: a hook, or one that may hold a chain of ours.
    pub(crate) fn foreign(&mut self, table: Table, chain: &[u8], rule: Rule) {
        match rule.target {
            Some(Target::Jump(ChainId::Fixed(_)) | Target::JumpFirewall | Target::Drop) => {
                self.hooks.push((table, String::from_utf8_lossy(chain).into_owned(), rule));
            }
            Some(Target::Jump(to)) => self.hold(to, chain),
            _ => {}
        }
    }

    /// A rule in the foreign chain `by` references `chain`.
    pub(crate) fn hold(&mut self, chain: ChainId, by: &[u8]) {
        self.held.entry(chain).or_insert_with(|| String::from_utf8_lossy(by).into());
    }
}

/// Digest of a chain whose rules arrive one by one.
#[derive(Debug)]
pub(crate) enum Accumulator {
    Ordered(TextHasher),
    Dispatch { chain: ChainId, sum: Digest, ranks: HashMap<Claim, u8>, tail_seen: bool },
}

impl Accumulator {
    pub(crate) fn new(id: ChainId, digester: &Digester) -> Self {
        if is_order_free(id) {
            Self::Dispatch { chain: id, sum: Digest::EMPTY_SET, ranks: HashMap::new(), tail_seen: false }
        } else {
            Self::Ordered(digester.stream())
        }
    }

    /// The chain's next rule; `text` is room to write it in.
    pub(crate) fn rule(&mut self, family: Family, digester: &Digester, id: ChainId, rule: &Rule, text: &mut Vec<u8>) {
        text.clear();
        match self {
            Self::Ordered(hasher) => {
                append_line(family, id, rule, text);
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
    pub(crate) fn foreign(&mut self, digester: &Digester, line: &[u8]) {
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

    pub(crate) fn finish(self) -> Digest {
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
