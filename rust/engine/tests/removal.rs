//! Invariant: whatever else the kernel holds, the text of a removal applies; afterwards no rule of ours stands, and every
//! chain and rule of other programs is as it was.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeSet;

use common::kernel::Kernel;
use ferrule_engine::removals;
use proptest::collection::vec;
use proptest::prelude::*;

const TABLES: [&str; 3] = ["filter", "nat", "mangle"];

/// Chains with names of their own, by table: what jump rules in base chains may lead to.
const FIXED: [&[&str]; 3] = [
    &[
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
        "KUBE-PROXY-CANARY",
    ],
    &["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-PROXY-CANARY"],
    &["KUBE-PROXY-CANARY"],
];
const HASHED: [&[&str]; 3] = [
    &["KUBE-SVC-DSP-GSODGFK7F4BKZ7V"],
    &[
        "KUBE-SVC-GSODGFK7F4BKZ7VG",
        "KUBE-SVL-GSODGFK7F4BKZ7VG",
        "KUBE-SEP-UK5NFWU76AC32MPY",
        "KUBE-EXT-GSODGFK7F4BKZ7VG",
        "KUBE-FW-GSODGFK7F4BKZ7VG",
        "KUBE-SVC-DSP-GSODGFK7F4BKZ7V",
        "KUBE-SVC-BAL-GSODGFK7F4BKZ7V",
    ],
    &[],
];
/// Some are ours in one table and not in another.
const FOREIGN: [&[&str]; 3] = [
    &["DOCKER", "KUBE-FIREWALL", "KUBE-POSTROUTING", "KUBE-SVC-GSODGFK7F4BKZ7VG", "KUBE-SVC-abcdefghijklmnop"],
    &["CUSTOM", "KUBE-FIREWALL", "KUBE-FORWARD", "KUBE-SVC-GSODGFK7F4BKZ7V1", "KUBE-SVC-DSP-GSODGFK7F4BKZ7VG"],
    &["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-SERVICES", "KUBE-SVC-DSP-GSODGFK7F4BKZ7V"],
];
const BASE: [&[&str]; 3] = [&["INPUT", "FORWARD"], &["PREROUTING", "OUTPUT"], &["FORWARD", "POSTROUTING"]];
/// The text before a target. Quotes may contain text that looks like a rule.
const MATCHES: [&str; 6] = [
    "",
    " -s 192.0.2.0/24 -p tcp",
    " -m comment --comment \"kubernetes service portals\"",
    " -m comment --comment \"see -j KUBE-SERVICES -g KUBE-SVC-GSODGFK7F4BKZ7VG\"",
    " -m comment --comment \"\\\" -j KUBE-SERVICES\"",
    " -m comment --comment \"ä -X KUBE-SERVICES :KUBE-SERVICES - [0:0]\"",
];

/// Indexes into the names above; the remainder counts.
#[derive(Clone, Debug)]
struct RuleSpec {
    table: usize,
    chain: usize,
    matches: usize,
    go_to: bool,
    target: usize,
}

fn rule_spec() -> impl Strategy<Value = RuleSpec> {
    (0..3_usize, 0..20_usize, 0..MATCHES.len(), any::<bool>(), 0..24_usize)
        .prop_map(|(table, chain, matches, go_to, target)| RuleSpec { table, chain, matches, go_to, target })
}

struct Node {
    kernel: Kernel,
    /// Returns the rules after a removal.
    expected: Kernel,
    jumps: usize,
    held: BTreeSet<(String, String)>,
}

/// Chains of ours that a bit of `present` stands for, all foreign chains, and rules between them.
fn node(present: u32, rules: &[RuleSpec]) -> Node {
    let mut node = Node { kernel: Kernel::new(), expected: Kernel::new(), jumps: 0, held: BTreeSet::new() };
    for table in 0..3 {
        let ours: Vec<&str> = [FIXED[table], HASHED[table]].concat();
        let ours: Vec<&str> = (0..).zip(ours).filter(|(n, _)| present >> n & 1 == 1).map(|(_, name)| name).collect();
        let chains = [BASE[table], FOREIGN[table], &ours].concat();
        for chain in &chains {
            node.kernel.table_mut(TABLES[table]).entry((*chain).to_owned()).or_default();
            if !ours.contains(chain) {
                node.expected.table_mut(TABLES[table]).entry((*chain).to_owned()).or_default();
            }
        }
        for spec in rules.iter().filter(|spec| spec.table == table) {
            let chain = chains[spec.chain % chains.len()];
            let targets = [&["ACCEPT"], FOREIGN[table], &ours].concat();
            let target = targets[spec.target % targets.len()];
            let verb = if spec.go_to { "-g" } else { "-j" };
            let rule = format!("{} {verb} {target}", MATCHES[spec.matches]);
            node.kernel.table_mut(TABLES[table]).get_mut(chain).unwrap().push(rule.clone());
            if ours.contains(&chain) {
                continue;
            }
            if BASE[table].contains(&chain) && ours.contains(&target) && FIXED[table].contains(&target) {
                node.jumps += 1;
                continue;
            }
            node.expected.table_mut(TABLES[table]).get_mut(chain).unwrap().push(rule);
            if ours.contains(&target) {
                node.expected.table_mut(TABLES[table]).entry(target.to_owned()).or_default();
                node.held.insert((TABLES[table].to_owned(), target.to_owned()));
            }
        }
    }
    node
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ours_go_and_theirs_stay(present in any::<u32>(), rules in vec(rule_spec(), 0..40)) {
        let Node { mut kernel, expected, jumps, held } = node(present, &rules);
        let before = kernel.chains();
        let found = removals(kernel.save().as_bytes());
        for removal in &found {
            kernel.restore(&removal.text.to_vec(), usize::MAX).unwrap();
        }
        prop_assert_eq!(&kernel, &expected);
        prop_assert_eq!(found.iter().map(|r| r.jumps).sum::<usize>(), jumps);
        prop_assert_eq!(found.iter().map(|r| r.chains).sum::<usize>(), before - expected.chains());
        let reported = |found: &[ferrule_engine::Removal]| -> BTreeSet<(String, String)> {
            found.iter().flat_map(|r| r.held.iter().map(|(chain, _)| (r.table.name().to_owned(), chain.clone()))).collect()
        };
        prop_assert_eq!(&reported(&found), &held);
        let again = removals(kernel.save().as_bytes());
        prop_assert!(again.iter().all(|r| r.text.is_empty() && (r.chains, r.jumps) == (0, 0)));
        prop_assert_eq!(reported(&again), held, "what stays is reported each time");
    }

    #[test]
    fn arbitrary_bytes_remove_nothing_that_does_not_stand_there(
        lines in vec(prop_oneof![any::<Vec<u8>>(), fragment()], 0..30),
    ) {
        let saved = lines.join(&b'\n');
        for removal in removals(&saved) {
            let text = removal.text.to_vec();
            if text.is_empty() {
                prop_assert_eq!((removal.chains, removal.jumps), (0, 0));
                continue;
            }
            let mut lines: Vec<&[u8]> = text.strip_suffix(b"\n").unwrap().split(|&b| b == b'\n').collect();
            prop_assert_eq!(lines.pop(), Some(b"COMMIT".as_slice()));
            prop_assert_eq!(lines.remove(0).strip_prefix(b"*"), Some(removal.table.name().as_bytes()));
            for line in lines {
                if let Some(rule) = line.strip_prefix(b"-D ") {
                    let rule = [b"-A ", rule].concat();
                    prop_assert!(saved.windows(rule.len()).any(|part| part == rule));
                } else {
                    let name = line.strip_prefix(b":").map(|rest| rest.strip_suffix(b" - [0:0]").unwrap());
                    let name = name.or(line.strip_prefix(b"-X ")).unwrap();
                    prop_assert!(ours(name), "{}", String::from_utf8_lossy(name));
                    prop_assert!(saved.windows(name.len()).any(|part| part == name));
                }
            }
        }
    }
}

fn ours(name: &[u8]) -> bool {
    [FIXED, HASHED].concat().concat().iter().any(|known| known.as_bytes() == name)
}

fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let names = [FIXED, HASHED, FOREIGN, BASE].concat().concat();
    let declared = (proptest::sample::select(names.clone()), prop_oneof![Just("-"), Just("ACCEPT"), Just("")])
        .prop_map(|(name, policy)| format!(":{name} {policy} [0:0]"));
    let rule = (
        proptest::sample::select(names.clone()),
        proptest::sample::select(MATCHES.to_vec()),
        proptest::sample::select(names),
    )
        .prop_map(|(chain, matches, target)| format!("-A {chain}{matches} -j {target}"));
    let table = proptest::sample::select(vec!["*filter", "*nat", "*mangle", "*raw", "COMMIT", "# comment"]);
    prop_oneof![declared, rule, table.prop_map(str::to_owned)].prop_map(String::into_bytes)
}

#[test]
fn a_comment_with_line_feeds_is_one_rule() {
    let saved = b"*nat\n:OUTPUT ACCEPT [0:0]\n:MINE - [0:0]\n:KUBE-SERVICES - [0:0]\n-A OUTPUT -j KUBE-SERVICES\n\
        -A MINE -m comment --comment \"\xff\n-A OUTPUT -s 192.0.2.1/32 -j KUBE-SERVICES\nCOMMIT\" -j ACCEPT\nCOMMIT\n";
    let found = removals(saved);
    assert_eq!(found.len(), 1);
    let expected = "*nat\n:KUBE-SERVICES - [0:0]\n-D OUTPUT -j KUBE-SERVICES\n-X KUBE-SERVICES\nCOMMIT\n";
    assert_eq!(String::from_utf8(found[0].text.to_vec()).unwrap(), expected);
}

#[test]
fn chains_are_declared_in_descending_order() {
    let saved = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SEP-UK5NFWU76AC32MPY - [0:0]\n:KUBE-SVC-GSODGFK7F4BKZ7VG - [0:0]\nCOMMIT\n";
    let text = String::from_utf8(removals(saved.as_bytes())[0].text.to_vec()).unwrap();
    let declared: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(':')).collect();
    assert_eq!(declared.len(), 3);
    assert!(declared.is_sorted_by(|a, b| a > b));
}
