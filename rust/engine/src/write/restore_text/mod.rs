//! Lazily serialised restore payload: steps that refer to the rules where they were rendered.
//!
//! A full plan of a large cluster is tens of megabytes of rules. They exist once, in the buffers of [`Changeset`]; this
//! type holds the order of the rules, the declarations and the deletions. [`RestoreText::pieces`] yields the text in
//! pieces of one MiB and frees everything with the last one.
//!
//! [`Changeset`]: crate::write::changeset::Changeset

mod summary;

use std::fmt;
use std::ops::Range;

use crate::model::names::{ChainId, Table};
use crate::rules::entry_jumps::FIREWALL;

pub use summary::{Phase, Strategy};

/// The size of a piece in bytes, exceeded by at most a line. A piece also ends with a transaction once it holds half as
/// many bytes.
const PIECE: usize = 1 << 20;

/// One step of the text.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(Table),
    Declare(ChainId),
    /// Declares KUBE-FIREWALL, kubelet's chain.
    DeclareFirewall,
    /// Lines of a table's buffer.
    Lines {
        start: usize,
        len: u32,
        table: Table,
    },
    Delete(ChainId),
    Commit,
}

/// One step, for a consumer that does not use text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command<'a> {
    Begin(Table),
    Declare(ChainId),
    DeclareFirewall,
    /// `-A` and `-I` lines.
    Lines(&'a [u8]),
    Delete(ChainId),
    Commit,
}

/// The text of one plan, as steps over the buffers that hold its rules.
#[derive(Clone, Default)]
pub struct RestoreText {
    buffers: [Vec<u8>; 3],
    steps: Vec<Step>,
    len: usize,
    phases: Vec<Phase>,
    /// How the text is split.
    pub strategy: Strategy,
}

impl RestoreText {
    /// Creates an empty text over complete buffers, with capacity for a number of steps.
    pub(crate) fn over(buffers: [Vec<u8>; 3], steps: usize) -> Self {
        Self { buffers, steps: Vec::with_capacity(steps), ..Self::default() }
    }

    // ---------------------------------------------------------------- writing

    /// Writes one transaction.
    pub(crate) fn block(&mut self, table: Table, name: &'static str, write: impl FnOnce(&mut Self)) {
        if self.phases.last().is_none_or(|p| (p.table, p.name) != (table, name)) {
            self.phases.push(Phase { table, name, blocks: 0, chains: 0, rules: 0, bytes: 0 });
        }
        let before = self.len;
        self.push(Step::Begin(table));
        write(self);
        self.push(Step::Commit);
        let bytes = self.len - before;
        self.count(|phase| {
            phase.blocks += 1;
            phase.bytes += bytes;
        });
    }

    /// Declares a chain, which creates or empties it.
    pub(crate) fn declare(&mut self, id: ChainId) {
        self.push(Step::Declare(id));
        self.count(|phase| phase.chains += 1);
    }

    /// Declares KUBE-FIREWALL.
    pub(crate) fn declare_firewall(&mut self) {
        self.push(Step::DeclareFirewall);
    }

    /// Deletes a chain. It was declared in the same block, so deleting a chain that no longer exists is not an error.
    pub(crate) fn delete(&mut self, id: ChainId) {
        self.push(Step::Delete(id));
    }

    /// Appends `count` rules from a table's buffer.
    pub(crate) fn lines(&mut self, table: Table, range: Range<usize>, count: usize) {
        self.count(|phase| phase.rules += count);
        let Range { mut start, end } = range;
        if let Some(Step::Lines { start: from, len, table: of }) = self.steps.last_mut() {
            // Adjacent lines of the buffer are one step: a whole table in one block needs a handful.
            let more = u32::try_from(end - start).ok().and_then(|more| len.checked_add(more));
            if let (true, Some(sum)) = (*of == table && *from + *len as usize == start, more) {
                *len = sum;
                self.len += end - start;
                return;
            }
        }
        while start < end {
            let len = u32::try_from(end - start).unwrap_or(u32::MAX);
            self.push(Step::Lines { start, len, table });
            start += len as usize;
        }
    }

    fn push(&mut self, step: Step) {
        self.len += match step {
            Step::Begin(table) => table.name().len() + 2,
            Step::Declare(id) => id.name_len() + DECLARED,
            Step::DeclareFirewall => FIREWALL.len() + DECLARED,
            Step::Lines { len, .. } => len as usize,
            Step::Delete(id) => id.name_len() + 4,
            Step::Commit => COMMIT.len(),
        };
        self.steps.push(step);
    }

    fn count(&mut self, add: impl FnOnce(&mut Phase)) {
        if let Some(phase) = self.phases.last_mut() {
            add(phase);
        }
    }

    // ---------------------------------------------------------------- reading

    /// Returns the number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of transactions.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.phases.iter().map(|phase| phase.blocks).sum()
    }

    /// Returns a summary of the content, in order.
    #[must_use]
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Returns the whole text.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len);
        let mut position = TextPosition::default();
        self.read(&mut position, usize::MAX..usize::MAX, &mut out);
        out
    }

    /// Returns the commands from the step with this index on. The first is [`Command::Begin`] where the previous step
    /// is a [`Command::Commit`].
    pub(crate) fn commands(&self, from: usize) -> impl Iterator<Item = Command<'_>> {
        self.steps[from..].iter().map(|step| match *step {
            Step::Begin(table) => Command::Begin(table),
            Step::Declare(id) => Command::Declare(id),
            Step::DeclareFirewall => Command::DeclareFirewall,
            Step::Lines { start, len, table } => {
                Command::Lines(&self.buffers[table as usize][start..start + len as usize])
            }
            Step::Delete(id) => Command::Delete(id),
            Step::Commit => Command::Commit,
        })
    }

    /// Returns an iterator over pieces of one MiB, or less where a transaction ends.
    #[must_use]
    pub fn pieces(self) -> Pieces {
        Pieces { text: self, position: TextPosition::default(), open: 0 }
    }

    /// Appends text from a position until `out` holds as many bytes as `bytes` allows: the lower bound where a
    /// transaction ends there, the upper bound otherwise, or until the text ends.
    fn read(&self, position: &mut TextPosition, bytes: Range<usize>, out: &mut Vec<u8>) {
        let limit = bytes.end;
        while let Some(step) = self.steps.get(position.step).filter(|_| out.len() < limit) {
            match *step {
                Step::Begin(table) => {
                    out.push(b'*');
                    out.extend_from_slice(table.name().as_bytes());
                    out.push(b'\n');
                }
                Step::Declare(id) => {
                    out.push(b':');
                    id.write_name(out);
                    out.extend_from_slice(b" - [0:0]\n");
                }
                Step::DeclareFirewall => {
                    out.push(b':');
                    out.extend_from_slice(FIREWALL.as_bytes());
                    out.extend_from_slice(b" - [0:0]\n");
                }
                Step::Lines { start, len, table } => {
                    let rest = start + position.within..start + len as usize;
                    let taken = rest.len().min(limit - out.len());
                    out.extend_from_slice(&self.buffers[table as usize][rest.start..rest.start + taken]);
                    if taken < rest.len() {
                        position.within += taken;
                        return;
                    }
                }
                Step::Delete(id) => {
                    out.extend_from_slice(b"-X ");
                    id.write_name(out);
                    out.push(b'\n');
                }
                Step::Commit => out.extend_from_slice(COMMIT),
            }
            *position = TextPosition { step: position.step + 1, within: 0 };
            if matches!(step, Step::Commit) && out.len() >= bytes.start {
                return;
            }
        }
    }
}

/// `:` and ` - [0:0]\n`.
const DECLARED: usize = 10;

const COMMIT: &[u8] = b"COMMIT\n";

impl fmt::Debug for RestoreText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_vec()))
    }
}

/// Compares the text, not the steps that produce it.
impl PartialEq for RestoreText {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.to_vec() == other.to_vec()
    }
}

impl Eq for RestoreText {}

#[derive(Clone, Copy, Debug, Default)]
struct TextPosition {
    step: usize,
    /// Bytes of the step that were read.
    within: usize,
}

/// An iterator over the text, a MiB at a time.
#[derive(Debug)]
pub struct Pieces {
    text: RestoreText,
    position: TextPosition,
    /// Bytes since a piece last ended with a transaction.
    open: usize,
}

impl Iterator for Pieces {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::with_capacity(self.text.len.min(PIECE + 64));
        self.text.read(&mut self.position, (PIECE / 2).saturating_sub(self.open)..PIECE, &mut piece);
        let whole = self.position.within == 0
            && matches!(self.text.steps.get(self.position.step.wrapping_sub(1)), Some(Step::Commit));
        self.open = if whole { 0 } else { self.open + piece.len() };
        if self.position.step >= self.text.steps.len() {
            self.text = RestoreText::default();
            self.position = TextPosition::default();
        }
        (!piece.is_empty()).then_some(piece)
    }
}

#[cfg(test)]
mod tests;
