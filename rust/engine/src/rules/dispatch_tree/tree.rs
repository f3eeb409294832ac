//! A dispatch chain cut into a tree of short chains: a radix tree over the keys of its rules, sixteen branches a node.
//!
//! ```text
//! root       KUBE-SERVICES      -d 10.96.0.0/16 ─► node ┐   one rule a child, disjoint; then whatever ends the chain
//!                               -d 192.0.2.0/28 ─► leaf │
//! node       KUBE-SVC-DSP-…         -d 10.96.0.0/20 ─► leaf ◄─ nibbles that all keys below share are skipped
//! leaf       KUBE-SVC-DSP-…         the rules themselves
//! ```
//!
//! The shape is a pure function of the set of rules: below the root a part is a leaf if it holds at most `leaf` rules
//! (or rules of one key only), else it branches at the first nibble in which two of its keys differ. At most `depth` parts
//! lie below one another, the last of them being leaves however much they hold: the kernel counts nested jumps, and
//! addresses that somebody chose to lie badly must not cost everybody else their rules. A chain's name is
//! that of its place, so a part that grows from leaf to node keeps it, and its parent keeps the jump. Adding or removing
//! a rule touches its leaf; its parent when a leaf appears or disappears; a level more where a part crosses `leaf`.
//!
//! **Any mix of old and new chains is right**, which is what makes every moment of a write in several transactions
//! valid: a chain of one name answers for the same part of the key space before and after. Only existence matters:
//! children are written before parents, and deleted after them.

use hashbrown::HashMap;

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, PortName};
use crate::options::TreeLimits;
use crate::rules::digest::{Digest, Digester};
use crate::rules::dispatch_tree::key::Prefix;
use crate::rules::rule::Rule;

/// One rule of the dispatch chain. Rules of one key keep the order of this type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) key: Claim,
    /// Whose it is.
    pub(crate) port: PortName,
    /// Position among the port's rules of this key.
    pub(crate) nth: u8,
    pub(crate) digest: Digest,
}

/// One chain.
#[derive(Debug)]
pub(crate) struct Node {
    place: Prefix,
    pub(crate) id: ChainId,
    /// Of the rule by which its parent jumps here.
    jump: Digest,
    /// Of its own rules.
    pub(crate) digest: Digest,
    pub(crate) body: Body,
}

/// What a chain holds.
#[derive(Debug)]
pub(crate) enum Body {
    /// Rules, sorted.
    Leaf(Vec<Entry>),
    /// Jumps. All keys below share their first `shared` nibbles and go to a child by the next one.
    Inner { shared: u8, rules: usize, children: Vec<Node> },
}

/// What making and unmaking nodes takes, and the marks it leaves.
#[derive(Debug)]
struct Workshop {
    family: Family,
    chain: FixedChain,
    digester: Digester,
    limits: TreeLimits,
    /// Chains below the root.
    chains: usize,
    /// Chains that may differ from what the kernel holds, with their places.
    changed: HashMap<ChainId, Prefix>,
    /// Chains that ceased to be, some of which may have come back since.
    gone: Vec<ChainId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Node,
    shop: Workshop,
}

impl Tree {
    /// The tree of a set of rules.
    pub(crate) fn new(
        family: Family,
        chain: FixedChain,
        digester: &Digester,
        limits: TreeLimits,
        mut entries: Vec<Entry>,
    ) -> Self {
        let mut shop = Workshop {
            family,
            chain,
            digester: digester.clone(),
            limits,
            chains: 0,
            changed: HashMap::new(),
            gone: Vec::new(),
        };
        entries.sort_unstable();
        let body = shop.branches(entries, 0);
        let digest = body.digest();
        let place = Prefix { key: Claim::NodePort(crate::model::names::Protocol::Tcp, 0), len: 0 };
        let root = Node { place, id: ChainId::Fixed(chain), jump: Digest::EMPTY_SET, digest, body };
        Self { root, shop }
    }

    /// Chains below the root: as many as there are jumps.
    pub(crate) const fn chains(&self) -> usize {
        self.shop.chains
    }

    /// Digest of what the root holds for this tree.
    pub(crate) const fn digest(&self) -> Digest {
        self.root.digest
    }

    /// The rules by which the root leads on.
    pub(crate) fn root_rules(&self) -> Vec<Rule> {
        self.root.jumps(self.shop.chain)
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        self.shop.insert(&mut self.root, entry, 0);
    }

    pub(crate) fn remove(&mut self, entry: &Entry) {
        self.shop.remove(&mut self.root, entry, 0);
    }

    /// Chains that may have to be written, by place, and chains to delete: all since the last call.
    pub(crate) fn take_changes(&mut self) -> (Vec<Prefix>, Vec<ChainId>) {
        #[allow(clippy::iter_over_hash_type)] // whoever writes them sorts them
        let changed = std::mem::take(&mut self.shop.changed).into_values().collect();
        (changed, std::mem::take(&mut self.shop.gone))
    }

    /// This chain may not be in the kernel as it should be.
    pub(crate) fn suspect(&mut self, place: Prefix) {
        let id = place.chain(self.shop.family, self.shop.chain);
        self.shop.changed.insert(id, place);
    }

    /// Suspect every chain of which `wrong` says so.
    pub(crate) fn suspect_where(&mut self, wrong: impl Fn(ChainId) -> bool) {
        let changed = &mut self.shop.changed;
        self.root.each(&mut |node| {
            if wrong(node.id) {
                changed.insert(node.id, node.place);
            }
        });
    }

    /// Names of all chains below the root.
    pub(crate) fn ids(&self) -> Vec<ChainId> {
        let mut ids = Vec::with_capacity(self.shop.chains);
        self.root.each(&mut |node| ids.push(node.id));
        ids
    }

    /// The chain at a place, if there is one.
    pub(crate) fn find(&self, place: Prefix) -> Option<&Node> {
        let mut node = &self.root;
        while node.place.len < place.len {
            let Body::Inner { shared, children, .. } = &node.body else { return None };
            let nibble = place.key.nibble(*shared);
            node = children.iter().find(|c| c.place.key.nibble(*shared) == nibble)?;
        }
        (node.place.len == place.len && node.place.key.common(place.key) >= place.len).then_some(node)
    }
}

impl Node {
    /// The rules of an inner chain.
    pub(crate) fn jumps(&self, chain: FixedChain) -> Vec<Rule> {
        match &self.body {
            Body::Leaf(_) => Vec::new(),
            Body::Inner { children, .. } => children.iter().map(|c| c.place.condition(chain).jump(c.id)).collect(),
        }
    }

    const fn is_root(&self) -> bool {
        self.place.len == 0
    }

    /// Every node below.
    fn each(&self, visit: &mut impl FnMut(&Self)) {
        if let Body::Inner { children, .. } = &self.body {
            for child in children {
                visit(child);
                child.each(visit);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.body.rules() == 0
    }

    /// Chains below one another, this one included.
    fn height(&self) -> usize {
        1 + self.body.height()
    }
}

impl Body {
    fn rules(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner { rules, .. } => *rules,
        }
    }

    /// Chains below one another.
    fn height(&self) -> usize {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner { children, .. } => children.iter().map(Node::height).max().unwrap_or(0),
        }
    }

    fn digest(&self) -> Digest {
        let mut sum = Digest::EMPTY_SET;
        match self {
            Self::Leaf(entries) => entries.iter().for_each(|e| sum.add(e.digest)),
            Self::Inner { children, .. } => children.iter().for_each(|c| sum.add(c.jump)),
        }
        sum
    }
}

fn one_key(entries: &[Entry]) -> bool {
    entries.first().map(|e| e.key) == entries.last().map(|e| e.key)
}

impl Workshop {
    /// A chain for sorted entries that share the first `len` nibbles, the `depth`th from the root.
    fn node(&mut self, len: u8, entries: Vec<Entry>, depth: usize) -> Node {
        let place = Prefix { key: entries[0].key, len };
        let body = self.body(entries, depth);
        self.raise(place, body)
    }

    fn body(&mut self, entries: Vec<Entry>, depth: usize) -> Body {
        if self.is_leaf(&entries, depth) { Body::Leaf(entries) } else { self.branches(entries, depth) }
    }

    fn is_leaf(&self, entries: &[Entry], depth: usize) -> bool {
        entries.len() <= self.limits.leaf || depth >= self.limits.depth || one_key(entries)
    }

    fn raise(&mut self, place: Prefix, body: Body) -> Node {
        let id = place.chain(self.family, self.chain);
        let mut rule = Vec::with_capacity(96);
        place.condition(self.chain).jump(id).write_to(self.family, &mut rule);
        let digest = body.digest();
        self.chains += 1;
        self.changed.insert(id, place);
        Node { place, id, jump: self.digester.ranked(0, &rule), digest, body }
    }

    fn raze(&mut self, id: ChainId) {
        self.chains -= 1;
        self.changed.remove(&id);
        self.gone.push(id);
    }

    /// Sorted entries over children of a node at `depth`.
    fn branches(&mut self, entries: Vec<Entry>, depth: usize) -> Body {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Body::Inner { shared: 0, rules: 0, children: Vec::new() };
        };
        // Equal keys differ nowhere: one child then, named by the whole key.
        let shared = first.key.common(last.key).min(first.key.nibbles() - 1);
        let rules = entries.len();
        let sizes: Vec<usize> =
            entries.chunk_by(|a, b| a.key.nibble(shared) == b.key.nibble(shared)).map(<[Entry]>::len).collect();
        let mut entries = entries.into_iter();
        let mut children = Vec::with_capacity(sizes.len());
        for size in sizes {
            // Each leaf keeps the list it is made with, so one without room to spare.
            let mut part = Vec::with_capacity(size);
            part.extend(entries.by_ref().take(size));
            children.push(self.node(shared + 1, part, depth + 1));
        }
        Body::Inner { shared, rules, children }
    }

    fn insert(&mut self, node: &mut Node, entry: Entry, depth: usize) {
        if !node.is_root() {
            self.changed.insert(node.id, node.place);
        }
        match &mut node.body {
            Body::Leaf(entries) => {
                let Err(at) = entries.binary_search(&entry) else { return };
                entries.insert(at, entry);
                if !self.is_leaf(entries, depth) {
                    let entries = std::mem::take(entries);
                    node.body = self.branches(entries, depth);
                }
            }
            Body::Inner { shared, rules, children } => {
                let common = children.first().map_or(0, |c| c.place.key.common(entry.key));
                *rules += 1;
                if children.is_empty() || (node.place.len == 0 && children.len() == 1) {
                    // A root with one child is one that had nothing to branch by.
                    let mut entries = self.dismantle(&mut node.body);
                    let at = entries.binary_search(&entry).unwrap_or_else(|at| at);
                    entries.insert(at, entry);
                    node.body = self.branches(entries, depth);
                } else if common < *shared {
                    let before = std::mem::replace(shared, common);
                    let place = Prefix { key: children[0].place.key, len: common + 1 };
                    let below = *rules - 1;
                    let mut body = Body::Inner { shared: before, rules: below, children: std::mem::take(children) };
                    // All of it goes one level down.
                    if below <= self.limits.leaf || depth + 1 + body.height() > self.limits.depth {
                        let entries = self.dismantle(&mut body);
                        body = self.body(entries, depth + 1);
                    }
                    let old = self.raise(place, body);
                    let new = self.node(common + 1, vec![entry], depth + 1);
                    let new_first = new.place.key.nibble(common) < old.place.key.nibble(common);
                    children.extend(if new_first { [new, old] } else { [old, new] });
                } else {
                    let (nibble, shared) = (entry.key.nibble(*shared), *shared);
                    match children.binary_search_by_key(&nibble, |c| c.place.key.nibble(shared)) {
                        Ok(at) => self.insert(&mut children[at], entry, depth + 1),
                        Err(at) => children.insert(at, self.node(shared + 1, vec![entry], depth + 1)),
                    }
                }
            }
        }
        node.digest = node.body.digest();
    }

    fn remove(&mut self, node: &mut Node, entry: &Entry, depth: usize) {
        if !node.is_root() {
            self.changed.insert(node.id, node.place);
        }
        match &mut node.body {
            Body::Leaf(entries) => {
                if let Ok(at) = entries.binary_search(entry) {
                    entries.remove(at);
                }
            }
            Body::Inner { shared, rules, children } => {
                let (nibble, at_nibble) = (entry.key.nibble(*shared), *shared);
                let Ok(at) = children.binary_search_by_key(&nibble, |c| c.place.key.nibble(at_nibble)) else { return };
                self.remove(&mut children[at], entry, depth + 1);
                *rules -= 1;
                if children[at].is_empty() {
                    let empty = children.remove(at);
                    self.raze(empty.id);
                }
                self.settle(node, depth);
            }
        }
        node.digest = node.body.digest();
    }

    /// Give an inner node that lost a rule the shape it would have been made with.
    fn settle(&mut self, node: &mut Node, depth: usize) {
        let root = node.is_root();
        let Body::Inner { rules, children, .. } = &mut node.body else { return };
        let small = !root && *rules <= self.limits.leaf;
        if !small && children.len() != 1 {
            return;
        }
        // What lies below an only child goes one level up, where leaves that were too deep to branch may do so.
        let deepest = depth + children.iter().map(Node::height).max().unwrap_or(0) >= self.limits.depth;
        if small || deepest || matches!(children[0].body, Body::Leaf(_)) {
            let entries = self.dismantle(&mut node.body);
            node.body = if root { self.branches(entries, depth) } else { self.body(entries, depth) };
        } else if let Some(only) = children.pop() {
            self.raze(only.id);
            node.body = only.body;
        }
    }

    /// All entries below, sorted; the chains that held them are gone.
    fn dismantle(&mut self, body: &mut Body) -> Vec<Entry> {
        match body {
            Body::Leaf(entries) => std::mem::take(entries),
            Body::Inner { children, .. } => {
                let mut all = Vec::new();
                for mut child in std::mem::take(children) {
                    self.raze(child.id);
                    all.append(&mut self.dismantle(&mut child.body));
                }
                all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::model::names::Protocol;

    fn tree((leaf, depth): (usize, usize), entries: Vec<Entry>) -> Tree {
        let limits = TreeLimits { leaf, depth, ..TreeLimits::default() };
        Tree::new(Family::V4, FixedChain::ExternalServices, &Digester::new([0; 16]), limits, entries)
    }

    /// Everything that reaches the kernel: each chain with its digest and what it holds.
    fn shape(tree: &Tree) -> BTreeMap<String, (Digest, String)> {
        let mut all = BTreeMap::new();
        let mut visit = |node: &Node| {
            let held = match &node.body {
                Body::Leaf(entries) => format!("{entries:?}"),
                Body::Inner { .. } => format!("{:?}", node.jumps(FixedChain::ExternalServices)),
            };
            assert_eq!(node.digest, node.body.digest());
            assert!(all.insert(node.id.name(), (node.digest, held)).is_none(), "two chains of one name");
        };
        visit(&tree.root);
        tree.root.each(&mut visit);
        assert_eq!(all.len(), tree.chains() + 1);
        all
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let ip = prop_oneof![
            4 => (0u8..3, any::<u8>()).prop_map(|(a, b)| Ipv4Addr::new(10, 96, a, b)),
            1 => Just(Ipv4Addr::new(192, 0, 2, 1)),
            1 => any::<u32>().prop_map(Ipv4Addr::from),
        ];
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        let port = prop_oneof![3 => 80u16..84, 1 => any::<u16>()];
        (ip, protocol, port, any::<bool>(), 0u8..2, 0u8..3).prop_map(|(ip, protocol, port, node_port, nth, owner)| {
            Entry {
                key: if node_port {
                    Claim::NodePort(protocol, port)
                } else {
                    Claim::Address(IpAddr::V4(ip), protocol, port)
                },
                port: PortName::new(&format!("ns/{owner}"), "", protocol),
                nth,
                digest: Digester::new([1; 16]).ranked(nth, format!("{ip}{port}{owner}").as_bytes()),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_shape_is_that_of_the_set(
            limits in (1usize..6, 1usize..9),
            steps in prop::collection::vec((entry(), any::<prop::sample::Index>(), 0u8..5), 1..80),
        ) {
            let mut set = BTreeSet::new();
            let mut grown = tree(limits, Vec::new());
            let mut in_kernel = BTreeMap::new();
            for (entry, index, what) in steps {
                if what < 2 && !set.is_empty() {
                    let victim: Entry = set.iter().nth(index.index(set.len())).cloned().unwrap();
                    grown.remove(&victim);
                    set.remove(&victim);
                } else if set.insert(entry.clone()) {
                    grown.insert(entry);
                }
                let fresh = tree(limits, set.iter().cloned().collect());
                let want = shape(&fresh);
                prop_assert_eq!(&shape(&grown), &want);
                // What it says has changed, written now and then, is all that has.
                if what != 4 {
                    let (changed, gone) = grown.take_changes();
                    for id in gone {
                        in_kernel.remove(&id.name());
                    }
                    for place in changed {
                        let node = grown.find(place).expect("changed chains exist");
                        in_kernel.insert(node.id.name(), node.digest);
                    }
                    let mut digests: BTreeMap<_, _> = want.into_iter().map(|(name, (digest, _))| (name, digest)).collect();
                    digests.remove("KUBE-EXTERNAL-SERVICES");
                    prop_assert_eq!(&in_kernel, &digests);
                }
            }
        }

        #[test]
        fn no_chain_is_long_but_at_the_bottom(leaf in 1usize..20, depth in 1usize..14, entries in prop::collection::btree_set(entry(), 0..200)) {
            let keys: BTreeMap<Claim, usize> = entries.iter().fold(BTreeMap::new(), |mut keys, e| {
                *keys.entry(e.key).or_default() += 1;
                keys
            });
            let tree = tree((leaf, depth), entries.into_iter().collect());
            let mut below: Vec<(&Node, usize)> = vec![(&tree.root, 0)];
            while let Some((node, at)) = below.pop() {
                assert!(at <= depth);
                match &node.body {
                    Body::Leaf(held) => assert!(at == depth || held.len() <= leaf.max(keys[&held[0].key])),
                    Body::Inner { children, rules, .. } => {
                        assert!(node.is_root() || ((2..=16).contains(&children.len()) && *rules > leaf));
                        below.extend(children.iter().map(|child| (child, at + 1)));
                    }
                }
            }
        }
    }

    #[test]
    fn one_rule_touches_its_leaf_and_no_more() {
        let key = |n: u16| {
            let [high, low] = n.to_be_bytes();
            Claim::Address(IpAddr::V4(Ipv4Addr::new(10, 96, high, low)), Protocol::Tcp, 80)
        };
        let entry = |n| Entry {
            key: key(n),
            port: PortName::new("ns/a", "", Protocol::Tcp),
            nth: 0,
            digest: Digest::EMPTY_SET,
        };
        // Eight rules in each of 4,096 leaves: 10.96.0.0/16 by the even addresses.
        let mut tree = tree((16, 7), (0..u16::MAX).step_by(2).map(entry).collect());
        assert_eq!(tree.chains(), 16 + 16 * 16 + 4096);
        tree.take_changes();
        tree.insert(entry(4711));
        let (changed, gone) = tree.take_changes();
        let leaves: Vec<_> = changed.iter().filter(|p| matches!(tree.find(**p).unwrap().body, Body::Leaf(_))).collect();
        assert_eq!((leaves.len(), changed.len(), gone.len()), (1, 3, 0));
    }
}
