//! The text of dispatch rules rendered during one plan, found by their digests.
//!
//! A port's rules are rendered to compute their digests. If their chain is then written, the text is needed again;
//! without this cache a full plan would render every Service twice.

use std::ops::Range;

use hashbrown::HashMap;

use crate::model::names::ChainId;
use crate::rules::digest::Digest;
use crate::rules::rule::{Rule, Target};

/// Text of rules by digest.
#[derive(Debug, Default)]
pub(crate) struct RenderedRules {
    text: Vec<u8>,
    by_digest: HashMap<Digest, RenderedRule>,
}

/// One rule, without the name of its chain.
#[derive(Clone, Debug)]
pub(crate) struct RenderedRule {
    text: Range<usize>,
    /// The chain that it jumps to.
    pub(crate) target: Option<ChainId>,
}

impl RenderedRules {
    /// Renders a rule and returns its digest, computed by `digest` from the text.
    pub(crate) fn add(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        rule: &Rule,
        digest: impl FnOnce(&[u8]) -> Digest,
    ) -> Digest {
        let start = self.text.len();
        write(&mut self.text);
        let digest = digest(&self.text[start..]);
        self.by_digest.insert(digest, RenderedRule { text: start..self.text.len(), target: jump_of(rule) });
        digest
    }

    /// Returns the rule with this digest, if it was rendered.
    pub(crate) fn get(&self, digest: Digest) -> Option<&RenderedRule> {
        self.by_digest.get(&digest)
    }

    /// Returns a rule's text.
    pub(crate) fn text(&self, line: &RenderedRule) -> &[u8] {
        &self.text[line.text.clone()]
    }
}

/// Returns the chain that a rule jumps to.
pub(crate) const fn jump_of(rule: &Rule) -> Option<ChainId> {
    match rule.target {
        Some(Target::Jump(to)) => Some(to),
        _ => None,
    }
}
