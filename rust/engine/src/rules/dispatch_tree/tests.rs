//! Compares trees that were changed rule by rule with trees built from the whole set, and checks the limits of their
//! shape.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::Protocol;
use crate::model::names::{FixedChain, PortName};
use crate::options::TreeLimits;
use crate::rules::digest::{Digest, Digester};
use crate::rules::dispatch_tree::key::KeyPrefix;
use crate::rules::dispatch_tree::node::{Entry, NodeKind, TreeNode};
use crate::rules::dispatch_tree::tree::Tree;

fn tree((leaf, depth): (usize, usize), entries: Vec<Entry>) -> Tree {
    let limits = TreeLimits { leaf, depth, ..TreeLimits::default() };
    Tree::new(Family::V4, FixedChain::ExternalServices, &Digester::new([0; 16]), limits, entries)
}

/// Returns what reaches the kernel: each chain with its digest and its content.
fn shape(tree: &Tree) -> BTreeMap<String, (Digest, String)> {
    let mut all = BTreeMap::new();
    let mut visit = |node: &TreeNode| {
        let held = match &node.kind {
            NodeKind::Leaf(entries) => format!("{entries:?}"),
            NodeKind::Inner { .. } => format!("{:?}", node.jumps(FixedChain::ExternalServices)),
        };
        assert_eq!(node.digest, node.kind.digest());
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
    (ip, protocol, port, any::<bool>(), 0u32..2, 0u8..3).prop_map(|(ip, protocol, port, node_port, nth, owner)| Entry {
        key: if node_port { Claim::NodePort(protocol, port) } else { Claim::Address(IpAddr::V4(ip), protocol, port) },
        port: PortName::new(&format!("ns/{owner}"), "", protocol),
        nth,
        digest: Digester::new([1; 16]).ranked(nth, format!("{ip}{port}{owner}").as_bytes()),
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
            // The changes that it reports, applied at intervals, must be all changes.
            if what != 4 {
                let (changed, removed) = grown.take_changes();
                for id in removed {
                    in_kernel.remove(&id.name());
                }
                for prefix in changed {
                    let node = grown.find(prefix).expect("changed chains exist");
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
        let mut below: Vec<(&TreeNode, usize)> = vec![(&tree.root, 0)];
        while let Some((node, at)) = below.pop() {
            assert!(at <= depth);
            match &node.kind {
                NodeKind::Leaf(held) => assert!(at == depth || held.len() <= leaf.max(keys[&held[0].key])),
                NodeKind::Inner { children, rules, .. } => {
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
    let entry =
        |n| Entry { key: key(n), port: PortName::new("ns/a", "", Protocol::Tcp), nth: 0, digest: Digest::EMPTY_SET };
    // Eight rules in each of 4,096 leaves: 10.96.0.0/16 by the even addresses.
    let mut tree = tree((16, 7), (0..u16::MAX).step_by(2).map(entry).collect());
    assert_eq!(tree.chains(), 16 + 16 * 16 + 4096);
    tree.take_changes();
    tree.insert(entry(4711));
    let (changed, removed) = tree.take_changes();
    let leaves: Vec<_> = changed.iter().filter(|p| matches!(tree.find(**p).unwrap().kind, NodeKind::Leaf(_))).collect();
    assert_eq!((leaves.len(), changed.len(), removed.len()), (1, 3, 0));
}

#[test]
fn a_chain_is_found_by_its_own_prefix_only() {
    let entry = |n: u8| Entry {
        key: Claim::Address(IpAddr::V4(Ipv4Addr::new(10, 96, 0, n)), Protocol::Tcp, 80),
        port: PortName::new("ns/a", "", Protocol::Tcp),
        nth: 0,
        digest: Digest::EMPTY_SET,
    };
    let tree = tree((2, 5), (0..40).map(entry).collect());
    let mut ids = Vec::new();
    tree.root.each(&mut |node| {
        ids.push(node.id);
        assert_eq!(tree.find(node.prefix).map(|found| found.id), Some(node.id));
        let Claim::Address(IpAddr::V4(ip), protocol, port) = node.prefix.key else { panic!("{:?}", node.prefix) };
        let [_, second, third, fourth] = ip.octets();
        let other = Claim::Address(IpAddr::V4(Ipv4Addr::new(11, second, third, fourth)), protocol, port);
        assert!(tree.find(KeyPrefix { key: other, len: node.prefix.len }).is_none(), "the same path, another address");
    });
    assert_eq!((tree.ids(), tree.chains()), (ids.clone(), ids.len()));
    assert!(ids.len() > 2);
}
