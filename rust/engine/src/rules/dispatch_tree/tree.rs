//! The tree of one dispatch chain: a radix tree of short chains over the keys of its rules, with sixteen branches per
//! node.
//!
//! ```text
//! root       KUBE-SERVICES      -d 10.96.0.0/16 ─► node ┐   one rule a child, disjoint; then the rules that end the chain
//!                               -d 192.0.2.0/28 ─► leaf │
//! node       KUBE-SVC-DSP-…         -d 10.96.0.0/20 ─► leaf ◄─ nibbles that all keys below share are skipped
//! leaf       KUBE-SVC-DSP-…         the rules themselves
//! ```
//!
//! The shape is a pure function of the set of rules. Below the root a node is a leaf if it holds at most `leaf` rules
//! (or rules of one key only); otherwise it branches at the first nibble in which two of its keys differ. `depth` is
//! the maximum tree depth, and nodes at this depth are leaves of any size: the kernel limits nested jumps, and a
//! Service with addresses chosen to make the tree deep must not exceed that limit for all others. A chain is named
//! after its prefix, so a leaf that becomes an inner node keeps its name, and its parent keeps the jump. Adding or
//! removing a rule changes its leaf, its parent when a leaf appears or disappears, and one more level when a node
//! crosses `leaf`.
//!
//! **Any mix of old and new chains is correct**, which makes every state between two transactions valid: a chain name
//! stands for the same region of the key space before and after. Only existence matters: children are written before
//! parents, and deleted after them.

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain};
use crate::options::TreeLimits;
use crate::rules::digest::{Digest, Digester};
use crate::rules::dispatch_tree::builder::TreeBuilder;
use crate::rules::dispatch_tree::key::KeyPrefix;
use crate::rules::dispatch_tree::node::{Entry, NodeKind, TreeNode};
use crate::rules::rule::Rule;

/// The tree of one dispatch chain, with the changes since they were last taken.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(super) root: TreeNode,
    builder: TreeBuilder,
}

impl Tree {
    /// Builds the tree of a set of rules.
    pub(crate) fn new(
        family: Family,
        chain: FixedChain,
        digester: &Digester,
        limits: TreeLimits,
        mut entries: Vec<Entry>,
    ) -> Self {
        let mut builder = TreeBuilder::new(family, chain, digester, limits);
        entries.sort_unstable();
        let kind = builder.branches(entries, 0);
        let digest = kind.digest();
        let prefix = KeyPrefix { key: Claim::NodePort(crate::model::names::Protocol::Tcp, 0), len: 0 };
        let root = TreeNode { prefix, id: ChainId::Fixed(chain), jump: Digest::EMPTY_SET, digest, kind };
        Self { root, builder }
    }

    /// Returns the number of chains below the root, which is the number of jumps.
    pub(crate) const fn chains(&self) -> usize {
        self.builder.chains
    }

    /// Returns the digest of the root's jump rules.
    pub(crate) const fn digest(&self) -> Digest {
        self.root.digest
    }

    /// Returns the root's jump rules.
    pub(crate) fn root_rules(&self) -> Vec<Rule> {
        self.root.jumps(self.builder.chain)
    }

    /// Adds a rule.
    pub(crate) fn insert(&mut self, entry: Entry) {
        self.builder.insert(&mut self.root, entry, 0);
    }

    /// Removes a rule.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        self.builder.remove(&mut self.root, entry, 0);
    }

    /// Takes the prefixes of chains that may have to be written, and the chains to delete, since the last call.
    pub(crate) fn take_changes(&mut self) -> (Vec<KeyPrefix>, Vec<ChainId>) {
        #[allow(clippy::iter_over_hash_type)] // the caller sorts them
        let changed = std::mem::take(&mut self.builder.changed).into_values().collect();
        (changed, std::mem::take(&mut self.builder.removed))
    }

    /// Marks a chain whose content in the kernel is unknown or different.
    pub(crate) fn mark_dirty(&mut self, prefix: KeyPrefix) {
        let id = prefix.chain(self.builder.family, self.builder.chain);
        self.builder.changed.insert(id, prefix);
    }

    /// Marks every chain for which `dirty` returns true.
    pub(crate) fn mark_dirty_where(&mut self, dirty: impl Fn(ChainId) -> bool) {
        let changed = &mut self.builder.changed;
        self.root.each(&mut |node| {
            if dirty(node.id) {
                changed.insert(node.id, node.prefix);
            }
        });
    }

    /// Returns the names of all chains below the root.
    pub(crate) fn ids(&self) -> Vec<ChainId> {
        let mut ids = Vec::with_capacity(self.builder.chains);
        self.root.each(&mut |node| ids.push(node.id));
        ids
    }

    /// Returns the node at a prefix, if there is one.
    pub(crate) fn find(&self, prefix: KeyPrefix) -> Option<&TreeNode> {
        let mut node = &self.root;
        while node.prefix.len < prefix.len {
            let NodeKind::Inner { common_nibbles, children, .. } = &node.kind else { return None };
            let nibble = prefix.key.nibble(*common_nibbles);
            node = children.iter().find(|c| c.prefix.key.nibble(*common_nibbles) == nibble)?;
        }
        (node.prefix.len == prefix.len && node.prefix.key.common(prefix.key) >= prefix.len).then_some(node)
    }
}
