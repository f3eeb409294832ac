//! Reads a family's rules over netlink: builds the requests and interprets the responses.

use std::fmt;

use super::decode::rule::decode;
use super::decode::verdicts::{RuleEffect, effect_of, verdicts};
use super::messages::{Chain, Envelope, Message, RawRule, ask_chains, ask_generation, ask_rules, messages};
use crate::model::address::Family;
use crate::model::names::{ChainId, Table};
use crate::read::observed::{Accumulator, Observed};
use crate::rules::digest::Digester;
use crate::rules::entry_jumps::FIREWALL;

pub(super) const ENOENT: i32 = 2;
pub(super) const EINTR: i32 = 4;
pub(super) const EAGAIN: i32 = 11;

/// What to do after a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadStep {
    /// The response continues in the next datagram.
    Wait,
    /// Send this request.
    Ask(Vec<u8>),
    /// All rules were read.
    Done,
}

/// Why a read failed; the caller starts again with [`Reader::begin`].
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The rules changed during the read.
    #[error("the rules changed while they were read")]
    Changed,
    /// The kernel refused with this errno.
    #[error("the kernel refused: errno {0}")]
    Refused(i32),
    /// The kernel holds something that this reader does not know; says where and what.
    #[error("{0}")]
    NotUnderstood(String),
}

/// A chain whose rules are requested.
#[derive(Clone, Debug)]
enum ListedChain {
    Own(ChainId),
    Foreign(Table, Box<[u8]>),
}

impl ListedChain {
    const fn table(&self) -> Table {
        match self {
            Self::Own(id) => id.table(),
            Self::Foreign(table, _) => *table,
        }
    }

    fn write_name(&self, out: &mut Vec<u8>) {
        match self {
            Self::Own(id) => id.write_name(out),
            Self::Foreign(_, name) => out.extend_from_slice(name),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Generation,
    Chains,
    /// Reading the rules of the chain with this index.
    Rules(usize),
    Again,
    Done,
}

/// Reads a family's rules: a state machine that returns requests and takes responses.
#[derive(Debug)]
pub struct Reader {
    family: Family,
    digester: Digester,
    phase: Phase,
    sequence: u32,
    generation: u32,
    chains: Vec<ListedChain>,
    /// Name of the chain whose rules are arriving, and their digest so far.
    name: Vec<u8>,
    arriving: Option<Accumulator>,
    observed: Observed,
    text: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(family: Family, digester: Digester) -> Self {
        Self {
            family,
            digester,
            phase: Phase::Generation,
            sequence: 0,
            generation: 0,
            chains: Vec::new(),
            name: Vec::new(),
            arriving: None,
            observed: Observed::default(),
            text: Vec::new(),
        }
    }

    /// Returns the family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Takes the observed state, if the read is complete, and resets the reader.
    pub(crate) fn take(&mut self) -> Option<Observed> {
        (self.phase == Phase::Done).then(|| {
            self.phase = Phase::Generation;
            std::mem::take(&mut self.observed)
        })
    }

    /// Resets the reader. Returns the first request.
    pub fn begin(&mut self) -> Vec<u8> {
        self.chains.clear();
        self.arriving = None;
        self.observed = Observed::default();
        self.ask(Phase::Generation)
    }

    fn ask(&mut self, phase: Phase) -> Vec<u8> {
        self.phase = phase;
        self.sequence = self.sequence.wrapping_add(1);
        match phase {
            Phase::Generation | Phase::Again | Phase::Done => ask_generation(self.sequence),
            Phase::Chains => ask_chains(self.family, self.sequence),
            Phase::Rules(at) => {
                let listed = &self.chains[at];
                self.name.clear();
                listed.write_name(&mut self.name);
                self.arriving = match listed {
                    ListedChain::Own(id) => Some(Accumulator::new(*id, &self.digester)),
                    ListedChain::Foreign(..) => None,
                };
                ask_rules(self.family, listed.table().name(), &self.name, self.sequence)
            }
        }
    }

    /// Takes one datagram from the kernel.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn feed(&mut self, datagram: &[u8]) -> Result<ReadStep, ReadError> {
        for envelope in messages(self.family, datagram) {
            match self.message(envelope) {
                Ok(None) => {}
                Ok(Some(step)) => return Ok(step),
                Err(error) => {
                    self.phase = Phase::Generation;
                    return Err(error);
                }
            }
        }
        Ok(ReadStep::Wait)
    }

    fn message(&mut self, envelope: Envelope<'_>) -> Result<Option<ReadStep>, ReadError> {
        let Envelope { sequence, interrupted, generation, message } = envelope;
        if message == Message::Unreadable || sequence != self.sequence {
            return Err(ReadError::NotUnderstood("a response in an unknown form".to_owned()));
        }
        let stale = generation.is_some_and(|half| u32::from(half) != self.generation & 0xffff);
        if interrupted || stale && self.phase != Phase::Generation {
            return Err(ReadError::Changed);
        }
        match (self.phase, message) {
            (Phase::Generation, Message::Generation(number)) => {
                self.generation = number;
                Ok(Some(ReadStep::Ask(self.ask(Phase::Chains))))
            }
            (Phase::Again, Message::Generation(number)) => {
                if number != self.generation {
                    return Err(ReadError::Changed);
                }
                self.phase = Phase::Done;
                Ok(Some(ReadStep::Done))
            }
            (Phase::Chains, Message::Chain(chain)) => self.chain(&chain).map(|()| None),
            (Phase::Rules(at), Message::Rule(rule)) => self.rule(at, &rule).map(|()| None),
            (Phase::Chains, Message::Done(None)) => Ok(Some(ReadStep::Ask(self.next(0)))),
            (Phase::Rules(at), Message::Done(None)) => {
                if let (ListedChain::Own(id), Some(chain)) = (&self.chains[at], self.arriving.take()) {
                    self.observed.chains.insert(*id, chain.finish());
                }
                Ok(Some(ReadStep::Ask(self.next(at + 1))))
            }
            (_, Message::Done(Some(ENOENT | EINTR | EAGAIN))) => Err(ReadError::Changed),
            (_, Message::Done(Some(errno))) => Err(ReadError::Refused(errno)),
            _ => Err(ReadError::NotUnderstood("a response to another request".to_owned())),
        }
    }

    fn next(&mut self, at: usize) -> Vec<u8> {
        let phase = if at < self.chains.len() { Phase::Rules(at) } else { Phase::Again };
        self.ask(phase)
    }

    fn chain(&mut self, chain: &Chain<'_>) -> Result<(), ReadError> {
        let Some(table) = Table::parse(chain.table) else { return Ok(()) };
        self.chains.push(match ChainId::parse(table, chain.name) {
            Some(id) if chain.is_base => {
                return Err(ReadError::NotUnderstood(format!("{id} is a base chain")));
            }
            Some(id) => ListedChain::Own(id),
            None => {
                self.observed.firewall_exists |= table == Table::Filter && chain.name == FIREWALL.as_bytes();
                ListedChain::Foreign(table, chain.name.into())
            }
        });
        Ok(())
    }

    fn rule(&mut self, at: usize, raw: &RawRule<'_>) -> Result<(), ReadError> {
        let listed = &self.chains[at];
        let table = listed.table();
        if raw.table != table.name().as_bytes() || raw.chain != self.name {
            return Err(ReadError::NotUnderstood("rules of a chain that was not requested".to_owned()));
        }
        let not_understood = |what: &dyn fmt::Display| {
            let chain = String::from_utf8_lossy(raw.chain);
            ReadError::NotUnderstood(format!("{} {chain} has a rule with an unknown expression: {what}", table.name()))
        };
        let rule = match raw.more {
            Some(kind) => Err(not_understood(&format_args!("attribute {kind}"))),
            None => decode(self.family, table, raw.expressions).map_err(|unknown| not_understood(&unknown)),
        };
        match (listed, rule) {
            (ListedChain::Own(id), Ok(rule)) => {
                if let Some(chain) = &mut self.arriving {
                    chain.rule(self.family, &self.digester, *id, &rule, &mut self.text);
                }
                self.observed.ours(*id, &rule);
            }
            (ListedChain::Own(_), Err(error)) => return Err(error),
            (ListedChain::Foreign(_, name), Ok(rule)) => self.observed.foreign(table, name, rule),
            (ListedChain::Foreign(_, name), Err(error)) => {
                for verdict in verdicts(raw.expressions) {
                    match effect_of(table, name, verdict) {
                        RuleEffect::None => {}
                        RuleEffect::References(id) => self.observed.hold(id, name),
                        RuleEffect::EntryJump => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }
}
