//! All dispatch chains of a family: their rules, whether they are flat chains or trees, and which chains must be written.
//!
//! Under `auto` all chains of a family become trees together, above a number of rules, and flat chains again below a
//! smaller number, so that a Service that is added and deleted at the threshold does not rewrite everything each time.
//! In between the layout stays. It is read from the kernel: after a restart the observed layout decides, so a restart
//! writes nothing in either case.

use std::cmp::Reverse;

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, PortName};
use crate::options::{ChainLayout, Options};
use crate::rules::digest::{Digest, Digester};
use crate::rules::dispatch_tree::key::KeyPrefix;
use crate::rules::dispatch_tree::node::{Entry, TreeNode};
use crate::rules::dispatch_tree::tree::Tree;
use crate::rules::rule::Rule;

/// One rule of a service port in a dispatch chain: its key and digest, from which the rule itself is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DispatchRule {
    pub(crate) chain: FixedChain,
    pub(crate) key: Claim,
    /// Position among the port's rules with the same chain and key.
    pub(crate) nth: u32,
    pub(crate) digest: Digest,
}

impl DispatchRule {
    fn entry(&self, port: &PortName) -> Entry {
        Entry { key: self.key, port: port.clone(), nth: self.nth, digest: self.digest }
    }
}

/// One dispatch chain.
#[derive(Debug, Default)]
struct DispatchChain {
    rules: usize,
    sum: Digest,
    tree: Option<Tree>,
}

/// The dispatch chains of one family.
#[derive(Debug, Default)]
pub(crate) struct DispatchChains {
    chains: [DispatchChain; FixedChain::ALL.len()],
    /// Whether they were trees in the last plan or, before the first one, in the kernel.
    were_trees: bool,
}

/// A chain below the root of a dispatch chain's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TreeChain {
    /// The dispatch chain that is the tree's root.
    pub(crate) root: FixedChain,
    pub(crate) prefix: KeyPrefix,
}

/// What changed in the trees since it was last taken.
#[derive(Debug, Default)]
pub(crate) struct TreeChanges {
    /// Chains that are no longer part of a tree.
    pub(crate) removed: Vec<ChainId>,
    /// Chains that may have to be written, with their digests; children before parents.
    pub(crate) changed: Vec<(TreeChain, ChainId, Digest)>,
}

impl DispatchChains {
    fn chain(&mut self, chain: FixedChain) -> &mut DispatchChain {
        &mut self.chains[chain as usize]
    }

    /// Replaces a port's rules.
    pub(crate) fn replace(&mut self, port: &PortName, old: &[DispatchRule], new: &[DispatchRule]) {
        if old == new {
            return;
        }
        for rule in old {
            let chain = self.chain(rule.chain);
            chain.rules -= 1;
            chain.sum.subtract(rule.digest);
            if let Some(tree) = &mut chain.tree {
                tree.remove(&rule.entry(port));
            }
        }
        for rule in new {
            let chain = self.chain(rule.chain);
            chain.rules += 1;
            chain.sum.add(rule.digest);
            if let Some(tree) = &mut chain.tree {
                tree.insert(rule.entry(port));
            }
        }
    }

    /// Takes over the layout that was found in the kernel before the first plan.
    pub(crate) const fn found_trees(&mut self, trees: bool) {
        self.were_trees = trees;
    }

    /// Converts every chain to the layout it must have now. `rules` returns the rules of all ports, from which trees are
    /// built. Returns the chains of trees that were dissolved.
    pub(crate) fn update_layout<'a, I: Iterator<Item = (&'a PortName, &'a [DispatchRule])>>(
        &mut self,
        family: Family,
        options: &Options,
        digester: &Digester,
        rules: impl Fn() -> I,
    ) -> Vec<ChainId> {
        let limits = options.tree_limits;
        let total: usize = self.chains.iter().map(|chain| chain.rules).sum();
        let trees = match options.dispatch {
            ChainLayout::Flat => false,
            ChainLayout::Tree => true,
            ChainLayout::Auto => total > limits.grow || (self.were_trees && total >= limits.shrink),
        };
        self.were_trees = trees;
        let mut dissolved = Vec::new();
        for &id in FixedChain::ALL.iter().filter(|chain| chain.is_dispatch()) {
            let chain = self.chain(id);
            match (trees, &chain.tree) {
                (true, None) => {
                    let entries = rules().flat_map(|(port, rules)| {
                        rules.iter().filter(|rule| rule.chain == id).map(|rule| rule.entry(port))
                    });
                    chain.tree = Some(Tree::new(family, id, digester, limits, entries.collect()));
                }
                (false, Some(_)) => {
                    let Some(mut tree) = chain.tree.take() else { continue };
                    // Chains removed since the last plan must be deleted like those that exist.
                    let (_, removed) = tree.take_changes();
                    dissolved.extend(tree.ids().into_iter().chain(removed));
                }
                _ => {}
            }
        }
        dissolved
    }

    /// Takes what changed in the trees since the last call.
    pub(crate) fn take_changes(&mut self) -> TreeChanges {
        let mut changes = TreeChanges::default();
        for &root in FixedChain::ALL {
            let Some(tree) = &mut self.chain(root).tree else { continue };
            let (dirty, removed) = tree.take_changes();
            changes.removed.extend(removed);
            for prefix in dirty {
                let Some(node) = tree.find(prefix) else { continue };
                changes.changed.push((TreeChain { root, prefix }, node.id, node.digest));
            }
        }
        changes.changed.sort_by_cached_key(|(chain, id, _)| (chain.root, Reverse((chain.prefix.len, id.name_key()))));
        changes
    }

    /// Returns the node of a tree chain, if it exists.
    pub(crate) fn find(&self, chain: TreeChain) -> Option<&TreeNode> {
        self.chains[chain.root as usize].tree.as_ref()?.find(chain.prefix)
    }

    /// Marks a tree chain for the next plan: the outcome of its write is unknown.
    pub(crate) fn mark_dirty(&mut self, chain: TreeChain) {
        if let Some(tree) = &mut self.chain(chain.root).tree {
            tree.mark_dirty(chain.prefix);
        }
    }

    /// Marks every tree chain for which `dirty` returns true.
    pub(crate) fn mark_dirty_where(&mut self, dirty: impl Fn(ChainId) -> bool) {
        for chain in &mut self.chains {
            if let Some(tree) = &mut chain.tree {
                tree.mark_dirty_where(&dirty);
            }
        }
    }

    /// Returns the digest of a dispatch chain without its tail.
    pub(crate) fn digest(&self, chain: FixedChain) -> Digest {
        let chain = &self.chains[chain as usize];
        chain.tree.as_ref().map_or(chain.sum, Tree::digest)
    }

    /// Returns the number of jumps within the chain's tree: rules that a flat chain does not have.
    pub(crate) fn jumps(&self, chain: FixedChain) -> usize {
        self.chains[chain as usize].tree.as_ref().map_or(0, Tree::chains)
    }

    /// Returns the rules of a chain that is a tree's root, without its tail; `None` if the chain is flat.
    pub(crate) fn tree_rules(&self, chain: FixedChain) -> Option<Vec<Rule>> {
        self.chains[chain as usize].tree.as_ref().map(Tree::root_rules)
    }
}

#[cfg(test)]
mod tests;
