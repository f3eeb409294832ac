//! Creates, changes and removes the nodes of a dispatch tree, and records which chains that touched.

use hashbrown::HashMap;

use crate::model::address::Family;
use crate::model::names::{ChainId, FixedChain};
use crate::options::TreeLimits;
use crate::rules::digest::Digester;
use crate::rules::dispatch_tree::key::KeyPrefix;
use crate::rules::dispatch_tree::node::{Entry, NodeKind, TreeNode, one_key};

/// Builds one tree's nodes and keeps the record of their changes.
#[derive(Debug)]
pub(super) struct TreeBuilder {
    pub(super) family: Family,
    /// The dispatch chain that is the tree's root.
    pub(super) chain: FixedChain,
    digester: Digester,
    limits: TreeLimits,
    /// Number of chains below the root.
    pub(super) chains: usize,
    /// Chains that may differ from what the kernel holds, with their prefixes.
    pub(super) changed: HashMap<ChainId, KeyPrefix>,
    /// Chains that were removed; some may have been created again since.
    pub(super) removed: Vec<ChainId>,
}

impl TreeBuilder {
    pub(super) fn new(family: Family, chain: FixedChain, digester: &Digester, limits: TreeLimits) -> Self {
        Self {
            family,
            chain,
            digester: digester.clone(),
            limits,
            chains: 0,
            changed: HashMap::new(),
            removed: Vec::new(),
        }
    }

    /// Builds the chain of sorted entries that share their first `len` nibbles, at `depth` jumps from the root.
    fn build(&mut self, len: u8, entries: Vec<Entry>, depth: usize) -> TreeNode {
        let prefix = KeyPrefix { key: entries[0].key, len };
        let kind = self.build_kind(entries, depth);
        self.create_node(prefix, kind)
    }

    /// Builds a leaf or, where the limits ask for it, an inner node with its children.
    fn build_kind(&mut self, entries: Vec<Entry>, depth: usize) -> NodeKind {
        if self.is_leaf(&entries, depth) { NodeKind::Leaf(entries) } else { self.branches(entries, depth) }
    }

    fn is_leaf(&self, entries: &[Entry], depth: usize) -> bool {
        entries.len() <= self.limits.leaf || depth >= self.limits.depth || one_key(entries)
    }

    /// Creates the node of a chain and marks the chain as changed.
    fn create_node(&mut self, prefix: KeyPrefix, kind: NodeKind) -> TreeNode {
        let id = prefix.chain(self.family, self.chain);
        let mut rule = Vec::with_capacity(96);
        prefix.condition(self.chain).jump(id).write_to(self.family, &mut rule);
        let digest = kind.digest();
        self.chains += 1;
        self.changed.insert(id, prefix);
        TreeNode { prefix, id, jump: self.digester.ranked(0, &rule), digest, kind }
    }

    /// Records that a chain is no longer part of the tree.
    fn remove_node(&mut self, id: ChainId) {
        self.chains -= 1;
        self.changed.remove(&id);
        self.removed.push(id);
    }

    /// Builds an inner node at `depth` and distributes sorted entries over its children.
    pub(super) fn branches(&mut self, entries: Vec<Entry>, depth: usize) -> NodeKind {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return NodeKind::Inner { common_nibbles: 0, rules: 0, children: Vec::new() };
        };
        // Equal keys have no differing nibble: the node then has one child, named by the whole key.
        let common_nibbles = first.key.common(last.key).min(first.key.nibbles() - 1);
        let rules = entries.len();
        let sizes: Vec<usize> = entries
            .chunk_by(|a, b| a.key.nibble(common_nibbles) == b.key.nibble(common_nibbles))
            .map(<[Entry]>::len)
            .collect();
        let mut entries = entries.into_iter();
        let mut children = Vec::with_capacity(sizes.len());
        for size in sizes {
            // A leaf keeps this list for as long as it lives: no spare capacity.
            let mut part = Vec::with_capacity(size);
            part.extend(entries.by_ref().take(size));
            children.push(self.build(common_nibbles + 1, part, depth + 1));
        }
        NodeKind::Inner { common_nibbles, rules, children }
    }

    /// Adds an entry below `node`, which is at `depth`.
    pub(super) fn insert(&mut self, node: &mut TreeNode, entry: Entry, depth: usize) {
        if !node.is_root() {
            self.changed.insert(node.id, node.prefix);
        }
        match &mut node.kind {
            NodeKind::Leaf(entries) => {
                let Err(at) = entries.binary_search(&entry) else { return };
                entries.insert(at, entry);
                if !self.is_leaf(entries, depth) {
                    let entries = std::mem::take(entries);
                    node.kind = self.branches(entries, depth);
                }
            }
            NodeKind::Inner { common_nibbles, rules, children } => {
                let common = children.first().map_or(0, |c| c.prefix.key.common(entry.key));
                *rules += 1;
                if children.is_empty() || (node.prefix.len == 0 && children.len() == 1) {
                    // A root has one child only where its keys differed in no nibble.
                    let mut entries = self.take_entries(&mut node.kind);
                    let at = entries.binary_search(&entry).unwrap_or_else(|at| at);
                    entries.insert(at, entry);
                    node.kind = self.branches(entries, depth);
                } else if common < *common_nibbles {
                    let before = std::mem::replace(common_nibbles, common);
                    let prefix = KeyPrefix { key: children[0].prefix.key, len: common + 1 };
                    let below = *rules - 1;
                    let mut kind =
                        NodeKind::Inner { common_nibbles: before, rules: below, children: std::mem::take(children) };
                    // The whole node moves one level down.
                    if below <= self.limits.leaf || depth + 1 + kind.height() > self.limits.depth {
                        let entries = self.take_entries(&mut kind);
                        kind = self.build_kind(entries, depth + 1);
                    }
                    let old = self.create_node(prefix, kind);
                    let new = self.build(common + 1, vec![entry], depth + 1);
                    let new_first = new.prefix.key.nibble(common) < old.prefix.key.nibble(common);
                    children.extend(if new_first { [new, old] } else { [old, new] });
                } else {
                    let (nibble, common_nibbles) = (entry.key.nibble(*common_nibbles), *common_nibbles);
                    match children.binary_search_by_key(&nibble, |c| c.prefix.key.nibble(common_nibbles)) {
                        Ok(at) => self.insert(&mut children[at], entry, depth + 1),
                        Err(at) => children.insert(at, self.build(common_nibbles + 1, vec![entry], depth + 1)),
                    }
                }
            }
        }
        node.digest = node.kind.digest();
    }

    /// Removes an entry below `node`, which is at `depth`.
    pub(super) fn remove(&mut self, node: &mut TreeNode, entry: &Entry, depth: usize) {
        if !node.is_root() {
            self.changed.insert(node.id, node.prefix);
        }
        match &mut node.kind {
            NodeKind::Leaf(entries) => {
                if let Ok(at) = entries.binary_search(entry) {
                    entries.remove(at);
                }
            }
            NodeKind::Inner { common_nibbles, rules, children } => {
                let (nibble, at_nibble) = (entry.key.nibble(*common_nibbles), *common_nibbles);
                let Ok(at) = children.binary_search_by_key(&nibble, |c| c.prefix.key.nibble(at_nibble)) else { return };
                self.remove(&mut children[at], entry, depth + 1);
                *rules -= 1;
                if children[at].is_empty() {
                    let empty = children.remove(at);
                    self.remove_node(empty.id);
                }
                self.normalize(node, depth);
            }
        }
        node.digest = node.kind.digest();
    }

    /// Restores the canonical shape of an inner node that lost a rule: the shape that a fresh build would produce.
    fn normalize(&mut self, node: &mut TreeNode, depth: usize) {
        let root = node.is_root();
        let NodeKind::Inner { rules, children, .. } = &mut node.kind else { return };
        let small = !root && *rules <= self.limits.leaf;
        if !small && children.len() != 1 {
            return;
        }
        // The content of an only child moves one level up, where leaves that were too deep to branch may branch.
        let deepest = depth + children.iter().map(TreeNode::height).max().unwrap_or(0) >= self.limits.depth;
        if small || deepest || matches!(children[0].kind, NodeKind::Leaf(_)) {
            let entries = self.take_entries(&mut node.kind);
            node.kind = if root { self.branches(entries, depth) } else { self.build_kind(entries, depth) };
        } else if let Some(only) = children.pop() {
            self.remove_node(only.id);
            node.kind = only.kind;
        }
    }

    /// Returns all entries below, sorted, and removes the chains that held them.
    fn take_entries(&mut self, kind: &mut NodeKind) -> Vec<Entry> {
        match kind {
            NodeKind::Leaf(entries) => std::mem::take(entries),
            NodeKind::Inner { children, .. } => {
                let mut all = Vec::new();
                for mut child in std::mem::take(children) {
                    self.remove_node(child.id);
                    all.append(&mut self.take_entries(&mut child.kind));
                }
                all
            }
        }
    }
}
