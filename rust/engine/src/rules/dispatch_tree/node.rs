//! The nodes of a dispatch tree: one chain each, holding either rules or jumps to its children.

use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, PortName};
use crate::rules::digest::Digest;
use crate::rules::dispatch_tree::key::KeyPrefix;
use crate::rules::rule::Rule;

/// One rule of the dispatch chain. Rules with the same key keep the order of this type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) key: Claim,
    /// The service port that the rule belongs to.
    pub(crate) port: PortName,
    /// Position among the port's rules of this key.
    pub(crate) nth: u32,
    pub(crate) digest: Digest,
}

/// One chain of the tree.
#[derive(Debug)]
pub(crate) struct TreeNode {
    pub(super) prefix: KeyPrefix,
    pub(crate) id: ChainId,
    /// Digest of the jump rule in its parent.
    pub(super) jump: Digest,
    /// Digest of its own rules.
    pub(crate) digest: Digest,
    pub(crate) kind: NodeKind,
}

/// The content of a node.
#[derive(Debug)]
pub(crate) enum NodeKind {
    /// The dispatch rules themselves, sorted.
    Leaf(Vec<Entry>),
    /// Jumps. All keys below share their first `common_nibbles` nibbles; the next nibble selects the child.
    Inner { common_nibbles: u8, rules: usize, children: Vec<TreeNode> },
}

impl TreeNode {
    /// Returns the jump rules of an inner node, none of a leaf.
    pub(crate) fn jumps(&self, chain: FixedChain) -> Vec<Rule> {
        match &self.kind {
            NodeKind::Leaf(_) => Vec::new(),
            NodeKind::Inner { children, .. } => children.iter().map(|c| c.prefix.condition(chain).jump(c.id)).collect(),
        }
    }

    pub(super) const fn is_root(&self) -> bool {
        self.prefix.len == 0
    }

    /// Calls `visit` with every node below this one.
    pub(super) fn each(&self, visit: &mut impl FnMut(&Self)) {
        if let NodeKind::Inner { children, .. } = &self.kind {
            for child in children {
                visit(child);
                child.each(visit);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kind.rules() == 0
    }

    /// Returns the number of levels, this node included.
    pub(super) fn height(&self) -> usize {
        1 + self.kind.height()
    }
}

impl NodeKind {
    /// Returns the number of dispatch rules in and below the node.
    pub(super) fn rules(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner { rules, .. } => *rules,
        }
    }

    /// Returns the number of levels below the node.
    pub(super) fn height(&self) -> usize {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner { children, .. } => children.iter().map(TreeNode::height).max().unwrap_or(0),
        }
    }

    /// Returns the digest of the chain's rules, in any order.
    pub(super) fn digest(&self) -> Digest {
        let mut sum = Digest::EMPTY_SET;
        match self {
            Self::Leaf(entries) => entries.iter().for_each(|e| sum.add(e.digest)),
            Self::Inner { children, .. } => children.iter().for_each(|c| sum.add(c.jump)),
        }
        sum
    }
}

/// Returns whether sorted entries all have the same key.
pub(super) fn one_key(entries: &[Entry]) -> bool {
    entries.first().map(|e| e.key) == entries.last().map(|e| e.key)
}
