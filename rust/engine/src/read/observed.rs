//! The observed state of the kernel: which of ferrule's chains exist, with which digests, and which entry jumps.
//!
//! It is filled by two readers: `saved_text` from text, `netlink::nft` from netlink messages. Both produce typed rules,
//! and a rule is written in canonical form before it is digested, so the result does not depend on the reader or on a
//! tool's spelling.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, Table};
use crate::rules::digest::{Digest, Digester, TextHasher, is_order_free};
use crate::rules::rule::{Rule, Target};
use crate::rules::ruleset::rank_key;
use crate::rules::save_format::print::append_line;

/// What the kernel holds, as far as it concerns ferrule.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) chains: HashMap<ChainId, Digest>,
    /// Chains of ferrule that foreign rules other than entry jumps reference, each with the foreign chain of one such
    /// rule.
    pub(crate) held: BTreeMap<ChainId, Box<str>>,
    /// Rules of base chains and of KUBE-FIREWALL that could be ferrule's.
    pub(crate) entry_jumps: Vec<(Table, String, Rule)>,
    pub(crate) firewall_exists: bool,
    /// Whether dispatch chains jump to chains of a dispatch tree.
    pub(crate) trees: bool,
}

impl Observed {
    /// Records a rule in one of ferrule's chains.
    pub(crate) fn ours(&mut self, id: ChainId, rule: &Rule) {
        let part = matches!(rule.target, Some(Target::Jump(ChainId::Dispatch(..))));
        self.trees |= part && matches!(id, ChainId::Fixed(_));
    }

    /// Records a rule in a foreign chain: an entry jump, or a rule that may reference one of ferrule's chains.
    pub(crate) fn foreign(&mut self, table: Table, chain: &[u8], rule: Rule) {
        match rule.target {
            Some(Target::Jump(ChainId::Fixed(_)) | Target::JumpFirewall | Target::Drop) => {
                self.entry_jumps.push((table, String::from_utf8_lossy(chain).into_owned(), rule));
            }
            Some(Target::Jump(to)) => self.hold(to, chain),
            _ => {}
        }
    }

    /// Records that a rule in the foreign chain `by` references `chain`.
    pub(crate) fn hold(&mut self, chain: ChainId, by: &[u8]) {
        self.held.entry(chain).or_insert_with(|| String::from_utf8_lossy(by).into());
    }
}

/// Computes the digest of a chain whose rules arrive one by one.
#[derive(Debug)]
pub(crate) enum Accumulator {
    Ordered(TextHasher),
    Dispatch { chain: ChainId, sum: Digest, ranks: HashMap<Claim, u32>, tail_seen: bool },
}

impl Accumulator {
    pub(crate) fn new(id: ChainId, digester: &Digester) -> Self {
        if is_order_free(id) {
            Self::Dispatch { chain: id, sum: Digest::EMPTY_SET, ranks: HashMap::new(), tail_seen: false }
        } else {
            Self::Ordered(digester.stream())
        }
    }

    /// Adds the chain's next rule; `text` is a scratch buffer.
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
                    // A rule after the node port jump is unreachable: the same set of rules with a different effect.
                    sum.add(digester.text(b"a rule behind the tail"));
                }
                *tail_seen |= is_tail;
                let rank = rank_key(chain.table(), Claim::of_rule(rule)).map_or(0, |key| {
                    let next = ranks.entry(key).or_default();
                    let rank = *next;
                    *next += 1;
                    rank
                });
                rule.write_to(family, text);
                sum.add(digester.ranked(rank, text));
            }
        }
    }

    /// Adds a rule that ferrule would never write.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::Net;
    use crate::rules::matches::Negatable;

    #[test]
    fn order_counts_behind_any_number_of_rules_for_one_key() {
        let (family, digester) = (Family::V4, Digester::new([5; 16]));
        let chain = ChainId::Fixed(FixedChain::NatServices);
        let rule = |target| {
            let to = Net::host([192, 0, 2, 1].into());
            Rule::default().to(Negatable::is(to)).port(crate::model::names::Protocol::Tcp, Some(80)).target(target)
        };
        let digest = |last: [Target; 2]| {
            let mut accumulator = Accumulator::new(chain, &digester);
            let before = std::iter::repeat_n(Target::Return, 300);
            for target in before.chain(last) {
                accumulator.rule(family, &digester, chain, &rule(target), &mut Vec::new());
            }
            accumulator.finish()
        };
        assert_ne!(digest([Target::Accept, Target::Drop]), digest([Target::Drop, Target::Accept]));
    }
}
