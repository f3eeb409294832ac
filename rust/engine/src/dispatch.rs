//! The dispatch chains as a whole: what they hold, whether each is one chain or a tree, and which parts must be written.
//!
//! Under `auto` a chain turns into a tree above one size and back below a smaller one, so that a Service that comes and
//! goes at the threshold does not rewrite everything each time. In between, what there is stays. That memory is in the
//! kernel: after a restart the chain as found decides, so a restart writes nothing, whichever it was.

use crate::address::Family;
use crate::claims::Claim;
use crate::delta::Delta;
use crate::digest::{Digest, Digester};
use crate::names::{ChainId, FixedChain, PortName};
use crate::options::{Dispatch, Options};
use crate::prefix::Prefix;
use crate::rule::Rule;
use crate::tree::{Entry, Node, Tree};

/// One rule of a service port in a dispatch chain: not the rule, only what is needed to find it and to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) chain: FixedChain,
    pub(crate) key: Claim,
    /// Position among the port's rules with the same chain and key.
    pub(crate) nth: u8,
    pub(crate) digest: Digest,
}

impl Share {
    fn entry(&self, port: &PortName) -> Entry {
        Entry { key: self.key, port: port.clone(), nth: self.nth, digest: self.digest }
    }
}

/// One dispatch chain.
#[derive(Debug, Default)]
struct Root {
    rules: usize,
    sum: Digest,
    tree: Option<Tree>,
    /// A tree, as of the last plan, or of the first observation.
    was_tree: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Roots([Root; FixedChain::ALL.len()]);

/// A chain of a tree that must be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) of: FixedChain,
    pub(crate) place: Prefix,
}

impl Roots {
    fn root(&mut self, chain: FixedChain) -> &mut Root {
        &mut self.0[chain as usize]
    }

    /// A port's rules changed.
    pub(crate) fn replace(&mut self, port: &PortName, old: &[Share], new: &[Share]) {
        if old == new {
            return;
        }
        for share in old {
            let root = self.root(share.chain);
            root.rules -= 1;
            root.sum.subtract(share.digest);
            if let Some(tree) = &mut root.tree {
                tree.remove(&share.entry(port));
            }
        }
        for share in new {
            let root = self.root(share.chain);
            root.rules += 1;
            root.sum.add(share.digest);
            if let Some(tree) = &mut root.tree {
                tree.insert(share.entry(port));
            }
        }
    }

    /// What was found in the kernel, before anything was planned.
    pub(crate) fn found_trees(&mut self, trees: &[FixedChain]) {
        for &chain in FixedChain::ALL {
            self.root(chain).was_tree = trees.contains(&chain);
        }
    }

    /// Make each chain what it shall be; `shares` gives the rules of all ports when a tree has to be made of them.
    pub(crate) fn settle<'a, I: Iterator<Item = (&'a PortName, &'a [Share])>>(
        &mut self,
        family: Family,
        options: &Options,
        digester: &Digester,
        delta: &mut Delta,
        shares: impl Fn() -> I,
    ) {
        let limits = options.tree_limits;
        for &chain in FixedChain::ALL {
            let root = self.root(chain);
            let wanted = chain.is_dispatch()
                && match options.dispatch {
                    Dispatch::Flat => false,
                    Dispatch::Tree => true,
                    Dispatch::Auto if root.rules > limits.grow => true,
                    Dispatch::Auto => root.was_tree && root.rules >= limits.shrink.min(limits.grow),
                };
            root.was_tree = wanted;
            match (wanted, &root.tree) {
                (true, None) => {
                    let of_chain = shares().flat_map(|(port, shares)| {
                        shares.iter().filter(|s| s.chain == chain).map(|share| share.entry(port))
                    });
                    root.tree = Some(Tree::new(family, chain, digester, limits.leaf, of_chain.collect()));
                }
                (false, Some(tree)) => {
                    tree.ids().into_iter().for_each(|id| delta.unwant(id));
                    root.tree = None;
                }
                _ => {}
            }
        }
    }

    /// Bring `delta` up to date with what changed in the trees; gives the parts that must be written, children first.
    pub(crate) fn take_parts(&mut self, delta: &mut Delta) -> Vec<Part> {
        let mut parts: Vec<(Part, ChainId)> = Vec::new();
        for &of in FixedChain::ALL {
            let Some(tree) = &mut self.root(of).tree else { continue };
            let (changed, gone) = tree.take_changes();
            gone.into_iter().for_each(|id| delta.unwant(id));
            for place in changed {
                let Some(node) = tree.find(place) else { continue };
                delta.want(node.id, node.digest);
                if delta.differs(node.id) {
                    parts.push((Part { of, place }, node.id));
                }
            }
        }
        parts.sort_by_cached_key(|(part, id)| (part.of, std::cmp::Reverse((part.place.len, id.name()))));
        parts.into_iter().map(|(part, _)| part).collect()
    }

    pub(crate) fn find(&self, part: Part) -> Option<&Node> {
        self.0[part.of as usize].tree.as_ref()?.find(part.place)
    }

    /// Nobody knows what became of this part.
    pub(crate) fn suspect(&mut self, part: Part) {
        if let Some(tree) = &mut self.root(part.of).tree {
            tree.suspect(part.place);
        }
    }

    /// After an observation: parts that are not as they shall be.
    pub(crate) fn suspect_differing(&mut self, delta: &Delta) {
        for root in &mut self.0 {
            if let Some(tree) = &mut root.tree {
                tree.suspect_where(|id| delta.differs(id));
            }
        }
    }

    /// Digest of the chain, its tail aside.
    pub(crate) fn digest(&self, chain: FixedChain) -> Digest {
        let root = &self.0[chain as usize];
        root.tree.as_ref().map_or(root.sum, Tree::digest)
    }

    /// Jumps within the chain's tree: the rules that only a tree has.
    pub(crate) fn jumps(&self, chain: FixedChain) -> usize {
        self.0[chain as usize].tree.as_ref().map_or(0, Tree::chains)
    }

    /// The rules of a chain that is a tree, its tail aside; `None`: it holds the ports' rules themselves.
    pub(crate) fn tree_rules(&self, chain: FixedChain) -> Option<Vec<Rule>> {
        self.0[chain as usize].tree.as_ref().map(Tree::root_rules)
    }
}
