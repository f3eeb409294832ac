//! Rules of dispatch chains that a plan has rendered already, found again by their digests.
//!
//! A port's rules are rendered to learn their digests. When their chain turns out to be written, the text is needed once
//! more; a full plan would render every Service twice.

use std::ops::Range;

use hashbrown::HashMap;

use crate::model::names::ChainId;
use crate::rules::digest::Digest;
use crate::rules::rule::{Rule, Target};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    text: Vec<u8>,
    known: HashMap<Digest, Line>,
}

/// One rule, without the chain it stands in.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    text: Range<usize>,
    /// Where it leads.
    pub(crate) target: Option<ChainId>,
}

impl Lines {
    /// Render a rule; gives what `digest` makes of its text.
    pub(crate) fn add(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        rule: &Rule,
        digest: impl FnOnce(&[u8]) -> Digest,
    ) -> Digest {
        let start = self.text.len();
        write(&mut self.text);
        let digest = digest(&self.text[start..]);
        self.known.insert(digest, Line { text: start..self.text.len(), target: jump_of(rule) });
        digest
    }

    pub(crate) fn get(&self, digest: Digest) -> Option<&Line> {
        self.known.get(&digest)
    }

    pub(crate) fn text(&self, line: &Line) -> &[u8] {
        &self.text[line.text.clone()]
    }
}

/// Where a rule leads, if to a chain.
pub(crate) const fn jump_of(rule: &Rule) -> Option<ChainId> {
    match rule.target {
        Some(Target::Jump(to)) => Some(to),
        _ => None,
    }
}
