//! Reads a family's rules over netlink: which requests to send, and what their answers mean.

use std::fmt;

use super::decode::rule::decode;
use super::decode::verdicts::{Foreign, leads_to, verdicts};
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
pub enum Step {
    /// More of the same answer is to come.
    Wait,
    /// Send this.
    Ask(Vec<u8>),
    /// Everything was read.
    Done,
}

/// Why reading ended early; the reader has to begin again.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The rules changed meanwhile.
    #[error("the rules changed while they were read")]
    Changed,
    /// The kernel refused with this errno.
    #[error("the kernel refused: errno {0}")]
    Refused(i32),
    /// Something means more than is known here; says where and what.
    #[error("{0}")]
    NotUnderstood(String),
}

/// A chain whose rules are to be asked for.
#[derive(Clone, Debug)]
enum Place {
    Ours(ChainId),
    Others(Table, Box<[u8]>),
}

impl Place {
    const fn table(&self) -> Table {
        match self {
            Self::Ours(id) => id.table(),
            Self::Others(table, _) => *table,
        }
    }

    fn write_name(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ours(id) => id.write_name(out),
            Self::Others(_, name) => out.extend_from_slice(name),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Generation,
    Chains,
    /// Of the chain with this index.
    Rules(usize),
    Again,
    Done,
}

/// See the module.
#[derive(Debug)]
pub struct Reader {
    family: Family,
    digester: Digester,
    phase: Phase,
    sequence: u32,
    generation: u32,
    places: Vec<Place>,
    /// Name of the chain whose rules are arriving, and the digest of what has.
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
            places: Vec::new(),
            name: Vec::new(),
            arriving: None,
            observed: Observed::default(),
            text: Vec::new(),
        }
    }

    /// Whose rules.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// What was read, if everything was; the reader is as new then.
    pub(crate) fn take(&mut self) -> Option<Observed> {
        (self.phase == Phase::Done).then(|| {
            self.phase = Phase::Generation;
            std::mem::take(&mut self.observed)
        })
    }

    /// Forget everything; gives the first request.
    pub fn begin(&mut self) -> Vec<u8> {
        self.places.clear();
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
                let place = &self.places[at];
                self.name.clear();
                place.write_name(&mut self.name);
                self.arriving = match place {
                    Place::Ours(id) => Some(Accumulator::new(*id, &self.digester)),
                    Place::Others(..) => None,
                };
                ask_rules(self.family, place.table().name(), &self.name, self.sequence)
            }
        }
    }

    /// Take one datagram that the kernel sent.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn feed(&mut self, datagram: &[u8]) -> Result<Step, ReadError> {
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
        Ok(Step::Wait)
    }

    fn message(&mut self, envelope: Envelope<'_>) -> Result<Option<Step>, ReadError> {
        let Envelope { sequence, interrupted, generation, message } = envelope;
        if message == Message::Unreadable || sequence != self.sequence {
            return Err(ReadError::NotUnderstood("an answer in a form that is not known".to_owned()));
        }
        let stale = generation.is_some_and(|half| u32::from(half) != self.generation & 0xffff);
        if interrupted || stale && self.phase != Phase::Generation {
            return Err(ReadError::Changed);
        }
        match (self.phase, message) {
            (Phase::Generation, Message::Generation(number)) => {
                self.generation = number;
                Ok(Some(Step::Ask(self.ask(Phase::Chains))))
            }
            (Phase::Again, Message::Generation(number)) => {
                if number != self.generation {
                    return Err(ReadError::Changed);
                }
                self.phase = Phase::Done;
                Ok(Some(Step::Done))
            }
            (Phase::Chains, Message::Chain(chain)) => self.chain(&chain).map(|()| None),
            (Phase::Rules(at), Message::Rule(rule)) => self.rule(at, &rule).map(|()| None),
            (Phase::Chains, Message::Done(None)) => Ok(Some(Step::Ask(self.next(0)))),
            (Phase::Rules(at), Message::Done(None)) => {
                if let (Place::Ours(id), Some(chain)) = (&self.places[at], self.arriving.take()) {
                    self.observed.chains.insert(*id, chain.finish());
                }
                Ok(Some(Step::Ask(self.next(at + 1))))
            }
            (_, Message::Done(Some(ENOENT | EINTR | EAGAIN))) => Err(ReadError::Changed),
            (_, Message::Done(Some(errno))) => Err(ReadError::Refused(errno)),
            _ => Err(ReadError::NotUnderstood("an answer to another question".to_owned())),
        }
    }

    fn next(&mut self, at: usize) -> Vec<u8> {
        let phase = if at < self.places.len() { Phase::Rules(at) } else { Phase::Again };
        self.ask(phase)
    }

    fn chain(&mut self, chain: &Chain<'_>) -> Result<(), ReadError> {
        let Some(table) = Table::parse(chain.table) else { return Ok(()) };
        self.places.push(match ChainId::parse(table, chain.name) {
            Some(id) if chain.hooked => {
                return Err(ReadError::NotUnderstood(format!("{id} is a chain that the kernel itself calls")));
            }
            Some(id) => Place::Ours(id),
            None => {
                self.observed.firewall_exists |= table == Table::Filter && chain.name == FIREWALL.as_bytes();
                Place::Others(table, chain.name.into())
            }
        });
        Ok(())
    }

    fn rule(&mut self, at: usize, raw: &RawRule<'_>) -> Result<(), ReadError> {
        let place = &self.places[at];
        let table = place.table();
        if raw.table != table.name().as_bytes() || raw.chain != self.name {
            return Err(ReadError::NotUnderstood("rules of a chain that was not asked for".to_owned()));
        }
        let not_understood = |what: &dyn fmt::Display| {
            let chain = String::from_utf8_lossy(raw.chain);
            ReadError::NotUnderstood(format!("{} {chain} has a rule with an unknown expression: {what}", table.name()))
        };
        let rule = match raw.more {
            Some(kind) => Err(not_understood(&format_args!("attribute {kind}"))),
            None => decode(self.family, table, raw.expressions).map_err(|unknown| not_understood(&unknown)),
        };
        match (place, rule) {
            (Place::Ours(id), Ok(rule)) => {
                if let Some(chain) = &mut self.arriving {
                    chain.rule(self.family, &self.digester, *id, &rule, &mut self.text);
                }
                self.observed.ours(*id, &rule);
            }
            (Place::Ours(_), Err(error)) => return Err(error),
            (Place::Others(_, name), Ok(rule)) => self.observed.foreign(table, name, rule),
            (Place::Others(_, name), Err(error)) => {
                for verdict in verdicts(raw.expressions) {
                    match leads_to(table, name, verdict) {
                        Foreign::Nowhere => {}
                        Foreign::Holds(id) => self.observed.hold(id, name),
                        Foreign::Hook => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }
}
