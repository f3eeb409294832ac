//! The dispatch chains as a whole: what they hold, whether they are chains or trees, and which parts must be written.
//!
//! Under `auto` all of a family's turn into trees together, above one number of rules in them, and back below a smaller
//! one, so that a Service that comes and goes at the threshold does not rewrite everything each time. In between, what
//! there is stays. That memory is in the kernel: after a restart what is found decides, so a restart writes nothing,
//! whichever it was.

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, PortName};
use crate::options::{Form, Options};
use crate::rules::digest::{Digest, Digester};
use crate::rules::dispatch_tree::key::Prefix;
use crate::rules::dispatch_tree::tree::{Entry, Node, Tree};
use crate::rules::rule::Rule;
use crate::state::delta::Delta;

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
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    chains: [Root; FixedChain::ALL.len()],
    /// Trees, as of the last plan, or of the first observation.
    were_trees: bool,
}

/// A chain of a tree that must be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) of: FixedChain,
    pub(crate) place: Prefix,
}

impl Roots {
    fn root(&mut self, chain: FixedChain) -> &mut Root {
        &mut self.chains[chain as usize]
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
    pub(crate) const fn found_trees(&mut self, trees: bool) {
        self.were_trees = trees;
    }

    /// Make all chains what they shall be; `shares` gives the rules of all ports when a tree has to be made of them.
    pub(crate) fn settle<'a, I: Iterator<Item = (&'a PortName, &'a [Share])>>(
        &mut self,
        family: Family,
        options: &Options,
        digester: &Digester,
        delta: &mut Delta,
        shares: impl Fn() -> I,
    ) {
        let limits = options.tree_limits;
        let rules: usize = self.chains.iter().map(|root| root.rules).sum();
        let trees = match options.dispatch {
            Form::Flat => false,
            Form::Tree => true,
            Form::Auto => rules > limits.grow || (self.were_trees && rules >= limits.shrink),
        };
        self.were_trees = trees;
        for &chain in FixedChain::ALL.iter().filter(|chain| chain.is_dispatch()) {
            let root = self.root(chain);
            match (trees, &root.tree) {
                (true, None) => {
                    let of_chain = shares().flat_map(|(port, shares)| {
                        shares.iter().filter(|s| s.chain == chain).map(|share| share.entry(port))
                    });
                    root.tree = Some(Tree::new(family, chain, digester, limits, of_chain.collect()));
                }
                (false, Some(_)) => {
                    // Those that went just now, with the last rules of a part, are as unwanted as those that stand.
                    let Some(mut tree) = root.tree.take() else { continue };
                    let (_, gone) = tree.take_changes();
                    for id in tree.ids().into_iter().chain(gone) {
                        delta.unwant(id);
                    }
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
            for id in gone {
                delta.unwant(id);
            }
            for place in changed {
                let Some(node) = tree.find(place) else { continue };
                delta.want(node.id, node.digest);
                if delta.differs(node.id) {
                    parts.push((Part { of, place }, node.id));
                }
            }
        }
        parts.sort_by_cached_key(|(part, id)| (part.of, std::cmp::Reverse((part.place.len, id.name_key()))));
        parts.into_iter().map(|(part, _)| part).collect()
    }

    pub(crate) fn find(&self, part: Part) -> Option<&Node> {
        self.chains[part.of as usize].tree.as_ref()?.find(part.place)
    }

    /// Nobody knows what became of this part.
    pub(crate) fn suspect(&mut self, part: Part) {
        if let Some(tree) = &mut self.root(part.of).tree {
            tree.suspect(part.place);
        }
    }

    /// After an observation: parts that are not as they shall be.
    pub(crate) fn suspect_differing(&mut self, delta: &Delta) {
        for root in &mut self.chains {
            if let Some(tree) = &mut root.tree {
                tree.suspect_where(|id| delta.differs(id));
            }
        }
    }

    /// Digest of the chain, its tail aside.
    pub(crate) fn digest(&self, chain: FixedChain) -> Digest {
        let root = &self.chains[chain as usize];
        root.tree.as_ref().map_or(root.sum, Tree::digest)
    }

    /// Jumps within the chain's tree: the rules that only a tree has.
    pub(crate) fn jumps(&self, chain: FixedChain) -> usize {
        self.chains[chain as usize].tree.as_ref().map_or(0, Tree::chains)
    }

    /// The rules of a chain that is a tree, its tail aside; `None`: it holds the ports' rules themselves.
    pub(crate) fn tree_rules(&self, chain: FixedChain) -> Option<Vec<Rule>> {
        self.chains[chain as usize].tree.as_ref().map(Tree::root_rules)
    }
}
