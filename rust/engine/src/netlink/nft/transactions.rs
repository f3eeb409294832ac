//! Encodes a plan's text as batches of netlink requests, which the kernel applies without a tool.
//!
//! The nft tool takes time quadratic in the names of one transaction and slows down with every transaction; the kernel
//! does neither. The result is the same: each block of the text is a batch, in order, and each rule is encoded from its
//! line, which is parsed as a line that was read back would be. So both ways of writing have one source, and a line
//! cannot be encoded with another meaning.

use super::describe::describe;
use super::encode::batch::Batch;
use crate::model::address::Family;
use crate::model::names::{ChainId, FixedChain, Table};
use crate::rules::entry_jumps::FIREWALL;
use crate::rules::save_format::parse::parse;
use crate::write::restore_text::{Command, RestoreText};

/// One transaction: a datagram for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The whole batch.
    pub bytes: Vec<u8>,
    /// The sequence number whose acknowledgement confirms the transaction.
    pub last: u32,
}

impl Transaction {
    /// Describes the request with this sequence number: `-A CHAIN rule` in its table. Returns `None` for the
    /// transaction as a whole.
    #[must_use]
    pub fn describe(&self, family: Family, sequence: u32) -> Option<String> {
        describe(family, &self.bytes, sequence)
    }
}

/// A line of the restore text does not parse as a rule: a bug of this program.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot encode {0:?} as a netlink request")]
pub struct NotEncodable(pub String);

/// An iterator over the transactions of a restore text. Frees the text after the last one.
#[derive(Debug)]
pub struct Transactions {
    family: Family,
    text: RestoreText,
    step: usize,
}

impl Transactions {
    /// Creates the transactions of a text that was rendered for this family.
    #[must_use]
    pub const fn new(family: Family, text: RestoreText) -> Self {
        Self { family, text, step: 0 }
    }

    fn encode(&mut self) -> Result<Option<Transaction>, NotEncodable> {
        let mut commands = self.text.commands(self.step);
        let Some(Command::Begin(table)) = commands.next() else { return Ok(None) };
        let mut batch = Batch::new(self.family, table, BATCH_CAPACITY);
        self.step += 1;
        for command in commands {
            self.step += 1;
            match command {
                Command::Declare(id) => {
                    if is_canary(id) {
                        batch.base();
                    }
                    batch.declare(id.name().as_bytes());
                }
                Command::DeclareFirewall => batch.declare(FIREWALL.as_bytes()),
                Command::Lines(lines) => encode_lines(self.family, table, lines, &mut batch)?,
                Command::Delete(id) => batch.delete(id.name().as_bytes()),
                Command::Begin(_) | Command::Commit => break,
            }
        }
        let (bytes, last) = batch.finish();
        Ok(Some(Transaction { bytes, last }))
    }
}

/// Initial capacity for a typical change, in bytes.
const BATCH_CAPACITY: usize = 1 << 12;

/// Returns whether the chain is a canary. A canary is written when the table was empty or flushed, and then base chains
/// may be missing as well.
const fn is_canary(id: ChainId) -> bool {
    matches!(id, ChainId::Fixed(FixedChain::NatCanary | FixedChain::FilterCanary | FixedChain::MangleCanary))
}

fn encode_lines(family: Family, table: Table, lines: &[u8], batch: &mut Batch) -> Result<(), NotEncodable> {
    for line in lines.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let wrong = || NotEncodable(String::from_utf8_lossy(line).into_owned());
        let text = std::str::from_utf8(line).map_err(|_| wrong())?;
        let (behind, rest) = match (text.strip_prefix("-A "), text.strip_prefix("-I ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            (None, None) => return Err(wrong()),
        };
        let end = rest.find(' ').unwrap_or(rest.len());
        let (chain, rule) = rest.split_at(end);
        if !behind {
            batch.base();
        }
        let rule = parse(family, table, rule).ok_or_else(wrong)?;
        batch.rule(chain.as_bytes(), &rule, behind);
    }
    Ok(())
}

impl Iterator for Transactions {
    type Item = Result<Transaction, NotEncodable>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.encode();
        if !matches!(next, Ok(Some(_))) {
            self.text = RestoreText::default();
            self.step = 0;
        }
        next.transpose()
    }
}
