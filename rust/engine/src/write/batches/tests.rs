//! The order and the batches of a write.

use super::*;
use crate::model::address::Family;
use crate::model::names::{PortName, Protocol};
use crate::rules::digest::Digester;
use crate::rules::rule::{Rule, Target};

const CHAIN: ChainId = ChainId::Fixed(FixedChain::Forward);

fn text(changeset: Changeset<'_>, strategy: WriteStrategy) -> String {
    String::from_utf8(restore_text(changeset, strategy, 0).to_vec()).unwrap()
}

#[test]
fn an_empty_text_is_empty() {
    let digester = Digester::new([0; 16]);
    let mut changeset = Changeset::new(Family::V4, &digester);
    changeset.chain(CHAIN, &[Rule::default().target(Target::Drop)], |_| false);
    assert!(changeset.is_empty());
    assert_eq!((changeset.rules, changeset.written().len()), ([0; 3], 0));
    assert!(restore_text(changeset, WriteStrategy::OrderedBlocks, 0).is_empty());
}

#[test]
fn a_block_declares_fills_and_deletes() {
    let digester = Digester::new([0; 16]);
    let changeset = || {
        let mut changeset = Changeset::new(Family::V6, &digester);
        changeset.delete(ChainId::Fixed(FixedChain::ProxyFirewall));
        changeset.chain(CHAIN, &[Rule::default().target(Target::Reject)], |_| true);
        changeset
    };
    let (deleted, written) = (":KUBE-PROXY-FIREWALL - [0:0]\n", ":KUBE-FORWARD - [0:0]\n");
    for (strategy, declared) in [
        (WriteStrategy::OneBlock, [written, deleted].concat()),
        (WriteStrategy::OrderedBlocks, [deleted, written].concat()),
    ] {
        let rule = "-A KUBE-FORWARD -j REJECT --reject-with icmp6-port-unreachable\n";
        let want = ["*filter\n", &declared, rule, "-X KUBE-PROXY-FIREWALL\nCOMMIT\n"].concat();
        assert_eq!(text(changeset(), strategy), want);
    }
    assert_eq!(changeset().rules.iter().sum::<usize>(), 1);
}

/// Each port with an endpoint chain, a balancing chain that jumps there, and a dispatch rule.
fn cluster(digester: &Digester, ports: usize) -> Changeset<'_> {
    let mut changeset = Changeset::new(Family::V4, digester);
    changeset.open(FixedChain::NatServices);
    changeset.open(FixedChain::NatNodePorts);
    let tail = Rule::default().jump(ChainId::Fixed(FixedChain::NatNodePorts));
    changeset.dispatch_tail(FixedChain::NatServices, &tail);
    for n in 0..ports {
        let port = PortName::new(&format!("ns/s{n}"), "", Protocol::Tcp);
        let (sep, svc) =
            (ChainId::Hashed(Prefix::Sep, port.endpoint_hash("x")), ChainId::Hashed(Prefix::Svc, port.hash()));
        let ext = ChainId::Hashed(Prefix::Ext, port.hash());
        changeset.next_port();
        changeset.chain(sep, &[Rule::default().jump(ChainId::Fixed(FixedChain::MarkMasq))], |_| true);
        changeset.chain(svc, &[Rule::default().jump(sep)], |_| true);
        changeset.chain(ext, &[Rule::default().jump(svc)], |_| true);
        changeset.dispatch(FixedChain::NatServices, &Rule::default().jump(ext));
    }
    changeset.chain(ChainId::Fixed(FixedChain::MarkMasq), &[Rule::default().target(Target::Return)], |_| true);
    changeset
}

#[test]
fn ordered_blocks_never_jump_to_what_no_earlier_line_made() {
    let digester = Digester::new([0; 16]);
    let result = text(cluster(&digester, 2000), WriteStrategy::OrderedBlocks);
    let mut known = hashbrown::HashSet::new();
    for line in result.lines() {
        if let Some(declared) = line.strip_prefix(':') {
            known.insert(declared.split(' ').next().unwrap());
        } else if let Some((_, target)) = line.split_once(" -j KUBE-") {
            let target = format!("KUBE-{target}");
            assert!(known.contains(target.as_str()), "{target} is jumped to before it exists");
        }
    }
    let blocks = result.matches("COMMIT\n").count();
    // first, one of endpoints, 4,000 Service chains in sevens of 600, dispatch.
    assert_eq!(blocks, 1 + 1 + 7 + 1);
    assert_eq!(text(cluster(&digester, 2000), WriteStrategy::OneBlock).matches("COMMIT").count(), 1);
}

#[test]
fn a_small_write_is_one_block_and_strategies_say_the_same() {
    let digester = Digester::new([0; 16]);
    let blocks =
        |ports, standing| restore_text(cluster(&digester, ports), WriteStrategy::OrderedBlocks, standing).blocks();
    assert_eq!((blocks(20, 0), blocks(400, 0), blocks(400, 150_000), blocks(500, 150_000)), (1, 5, 1, 5));
    // Few chains that name many others.
    let many_endpoints = |ports| {
        let mut changeset = Changeset::new(Family::V4, &digester);
        for n in 0..ports {
            let port = PortName::new(&format!("ns/s{n}"), "", Protocol::Tcp);
            let to = |i| ChainId::Hashed(Prefix::Sep, port.endpoint_hash(&format!("{i}")));
            let rules: Vec<Rule> = (0..100).map(|i| Rule::default().jump(to(i))).collect();
            changeset.next_port();
            changeset.chain(ChainId::Hashed(Prefix::Svc, port.hash()), &rules, |_| true);
        }
        restore_text(changeset, WriteStrategy::OrderedBlocks, 0).blocks()
    };
    assert_eq!((many_endpoints(20), many_endpoints(21), many_endpoints(45)), (1, 1, 2));
    let lines = |strategy| {
        let text = text(cluster(&digester, 500), strategy);
        let mut lines: Vec<String> = text.lines().filter(|l| l.starts_with(['-', ':'])).map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(lines(WriteStrategy::OneBlock), lines(WriteStrategy::OrderedBlocks));
}

#[test]
fn the_legacy_tool_reads_names_in_order_and_the_most_wanted_last() {
    let digester = Digester::new([0; 16]);
    let text = text(cluster(&digester, 500), WriteStrategy::OneBlock);
    let nat = &text[text.find("*nat").unwrap()..];
    let declared: Vec<&str> = nat.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).collect();
    let (last, rest) = declared.split_last().unwrap();
    assert!(*last == "KUBE-MARK-MASQ" && rest.len() > 1500);
    assert!(rest.is_sorted());
    let ruled: Vec<&str> = nat.lines().filter_map(|line| line.strip_prefix("-A ")?.split(' ').next()).collect();
    let dispatch = ruled.iter().position(|&name| name == "KUBE-SERVICES").unwrap();
    assert!(ruled[..dispatch - 1].is_sorted());
}

#[test]
fn deletions_precede_their_targets() {
    let digester = Digester::new([0; 16]);
    let mut changeset = Changeset::new(Family::V4, &digester);
    for n in 0..4000 {
        let port = PortName::new(&format!("ns/s{n}"), "", Protocol::Tcp);
        changeset.delete(ChainId::Hashed(Prefix::Sep, port.endpoint_hash("x")));
        changeset.delete(ChainId::Hashed(Prefix::Svc, port.hash()));
    }
    let text = text(changeset, WriteStrategy::OrderedBlocks);
    assert_eq!(text.matches("COMMIT").count(), 2);
    assert!(text.rfind("-X KUBE-SVC-").unwrap() < text.find("-X KUBE-SEP-").unwrap());
}

#[test]
fn parts_are_deleted_after_the_parts_that_jump_there() {
    let digester = Digester::new([0; 16]);
    let mut changeset = Changeset::new(Family::V4, &digester);
    for n in 0..3000 {
        let root = ChainId::Hashed(Prefix::Svl, PortName::new(&format!("ns/s{n}"), "", Protocol::Tcp).hash());
        for place in [&[1, 2, 3][..], &[1], &[1, 2], &[4]] {
            changeset.delete(ChainId::balance(root, place));
        }
        changeset.delete(root);
    }
    let text = text(changeset, WriteStrategy::OrderedBlocks);
    let kinds = text.lines().filter_map(|line| match line.strip_prefix("-X ")?.strip_prefix("KUBE-SVC-BAL-") {
        Some(part) => part.chars().next(),
        None => Some('A'),
    });
    let mut kinds: Vec<char> = kinds.collect();
    assert_eq!((kinds.len(), text.matches("COMMIT").count()), (15_000, 3));
    assert!(kinds.is_sorted());
    kinds.dedup();
    assert_eq!(kinds, ['A', 'B', 'C', 'D']);
}
