//! Checks that encoded rules decode to the same rules, byte by byte where it matters.

use super::*;
use crate::model::address::Net;
use crate::model::interface::Interface;
use crate::model::names::{FixedChain, Prefix, Protocol};
use crate::netlink::nft::encode::batch::Batch;
use crate::rules::entry_jumps;
use crate::rules::matches::{Comment, CtState, Match, Negatable};
use crate::rules::rule::{Rule, Target};
use crate::rules::save_format::parse::parse;
use crate::write::restore_text::RestoreText;

fn encoded(family: Family, table: Table, rule: &Rule) -> String {
    let mut batch = Batch::new(family, table, 0);
    batch.rule(b"KUBE-X", rule, true);
    let (bytes, last) = batch.finish();
    Transaction { bytes, last }.describe(family, last).unwrap()
}

#[test]
fn every_recorded_rule_comes_back() {
    let mut seen = 0;
    for (name, _, saved) in recordings() {
        let family = family_of(name);
        let mut table = Table::Filter;
        for line in std::str::from_utf8(saved).unwrap().lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::parse(name.as_bytes()).unwrap();
            }
            let Some((_, text)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) else { continue };
            let text = format!(" {text}");
            if let Some(rule) = parse(family, table, &text) {
                assert_eq!(encoded(family, table, &rule), format!("{}: -A KUBE-X{text}", table.name()), "{name}");
                seen += 1;
            }
        }
    }
    assert!(seen > 150, "{seen}");
}

#[test]
fn what_no_recording_has() {
    let nets = ["10.0.0.0/8", "10.16.0.0/12", "10.1.2.3/32", "10.1.2.0/24", "10.1.2.4/31", "128.0.0.0/1"];
    for net in nets.map(|n| Net::parse(n).unwrap()) {
        for negated in [false, true] {
            let rule = Rule::default().to(Negatable { negated, value: net }).target(Target::Drop);
            let text = format!("nat: -A KUBE-X {}-d {net} -j DROP", if negated { "! " } else { "" });
            assert_eq!(encoded(Family::V4, Table::Nat, &rule), text);
        }
    }
    for net in ["fd00::/8", "fd00:10::/29", "fd00::1/128", "fd00:1:2:3::/64", "8000::/1"] {
        let rule = Rule::default().from(Negatable::is(Net::parse(net).unwrap())).target(Target::Return);
        assert_eq!(encoded(Family::V6, Table::Nat, &rule), format!("nat: -A KUBE-X -s {net} -j RETURN"));
    }
    for name in ["eth0", "cali+", "fifteen-letters"] {
        let rule = Rule::default().through(Negatable::not(Interface::new(name).unwrap())).target(Target::Accept);
        assert_eq!(encoded(Family::V4, Table::Nat, &rule), format!("nat: -A KUBE-X ! -i {name} -j ACCEPT"));
    }
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let name = protocol.name();
        for (m, text) in [
            (Match::Port { protocol, destination: None }, String::new()),
            (Match::Port { protocol, destination: Some(53) }, " --dport 53".to_owned()),
            (Match::PortRange { protocol, low: 0, high: 4095 }, " --dport 0:4095".to_owned()),
        ] {
            let rule = Rule { protocol: Some(protocol), ..Rule::default() }.with(m).target(Target::Reject);
            let want =
                format!("filter: -A KUBE-X -p {name} -m {name}{text} -j REJECT --reject-with icmp6-port-unreachable");
            assert_eq!(encoded(Family::V6, Table::Filter, &rule), want);
        }
    }
    for state in [CtState::Invalid, CtState::New, CtState::RelatedEstablished, CtState::RelatedEstablishedDnat] {
        let rule = Rule::default().with(Match::Conntrack(Negatable::not(state))).target(Target::Drop);
        let again = encoded(Family::V4, Table::Filter, &rule);
        let text = again.strip_prefix("filter: -A KUBE-X").unwrap();
        assert_eq!(parse(Family::V4, Table::Filter, text), Some(rule));
    }
    let longest = Comment::new(&[&"x".repeat(300)]);
    let rule = Rule::commented(longest.clone()).target(Target::Masquerade { random_fully: true });
    let want = format!("nat: -A KUBE-X -m comment --comment {} -j MASQUERADE --random-fully", longest.as_str());
    assert_eq!(encoded(Family::V6, Table::Nat, &rule), want);
}

const CHAIN: ChainId = ChainId::Fixed(FixedChain::Forward);

fn transactions(text: RestoreText) -> Vec<Result<Transaction, NotEncodable>> {
    Transactions::new(Family::V4, text).collect()
}

/// Returns the requests of a transaction, without the batch messages and the table.
fn requests(transaction: &Transaction) -> Vec<String> {
    (2..=transaction.last).map(|n| transaction.describe(Family::V4, n).unwrap()).collect()
}

#[test]
fn a_block_is_a_transaction_and_the_last_request_asks_for_an_answer() {
    let buffer = b"-A KUBE-FORWARD -j DROP\n-I FORWARD -j KUBE-FORWARD\n".to_vec();
    let (first, whole) = (24, buffer.len());
    let mut text = RestoreText::over([buffer, Vec::new(), Vec::new()], 16);
    text.block(Table::Filter, "one", |t| {
        t.declare(CHAIN);
        t.lines(Table::Filter, 0..first, 1);
    });
    text.block(Table::Filter, "two", |t| {
        t.declare_firewall();
        t.lines(Table::Filter, first..whole, 1);
        t.delete(CHAIN);
    });
    let made: Vec<Transaction> = transactions(text).into_iter().map(Result::unwrap).collect();
    assert_eq!(
        requests(&made[0]),
        ["-N KUBE-FORWARD", "-F KUBE-FORWARD", "-A KUBE-FORWARD -j DROP"].map(|r| format!("filter: {r}"))
    );
    let base = ["INPUT", "FORWARD", "OUTPUT"].map(|chain| format!("-N {chain}"));
    let two = ["-N KUBE-FIREWALL", "-F KUBE-FIREWALL"].map(str::to_owned).into_iter().chain(base);
    let two = two.chain(["-I FORWARD -j KUBE-FORWARD", "-X KUBE-FORWARD"].map(str::to_owned));
    assert_eq!(requests(&made[1]), two.map(|r| format!("filter: {r}")).collect::<Vec<_>>());
    for transaction in &made {
        let mut rest = transaction.bytes.as_slice();
        let mut asked = Vec::new();
        let (mut first, mut last) = (None, None);
        while let Some((header, body)) = crate::netlink::framing::message(&mut rest) {
            first = first.or(Some((header.kind, body.to_vec())));
            last = Some((header.kind, body.to_vec()));
            if header.flags & crate::netlink::framing::NLM_F_ACK != 0 {
                asked.push(header.sequence);
            }
        }
        assert!(rest.is_empty());
        assert_eq!(asked, [transaction.last]);
        // NFNL_MSG_BATCH_BEGIN and _END, for nf_tables.
        assert_eq!(first, Some((0x10, vec![0, 0, 0, 10])));
        assert_eq!(last, Some((0x11, vec![0, 0, 0, 10])));
        assert_eq!((transaction.describe(Family::V4, 0), transaction.describe(Family::V4, 9999)), (None, None));
    }
}

#[test]
fn base_chains_are_created_once_per_transaction_with_entry_jumps_or_a_canary() {
    let mut buffer = Vec::new();
    for jump in entry_jumps::entry_jumps(Family::V4, true).iter().filter(|jump| jump.table == Table::Nat) {
        buffer.extend(b"-I ");
        buffer.extend(jump.chain.as_bytes());
        jump.rule.write_to(Family::V4, &mut buffer);
        buffer.push(b'\n');
    }
    let whole = buffer.len();
    let mut text = RestoreText::over([Vec::new(), buffer, Vec::new()], 16);
    text.block(Table::Nat, "entry jumps", |t| t.lines(Table::Nat, 0..whole, 3));
    text.block(Table::Mangle, "canary", |t| t.declare(ChainId::Fixed(FixedChain::MangleCanary)));
    text.block(Table::Nat, "another", |t| t.declare(ChainId::Fixed(FixedChain::MarkMasq)));
    let made: Vec<Transaction> = transactions(text).into_iter().map(Result::unwrap).collect();
    let bases = |t: &Transaction| requests(t).iter().filter(|r| r.contains(" -N ") && !r.contains("KUBE-")).count();
    assert_eq!(made.iter().map(bases).collect::<Vec<_>>(), [4, 5, 0]);
}

#[test]
fn a_line_that_does_not_parse_ends_it_with_that_line() {
    for line in ["-A KUBE-FORWARD -j DOCKER\n", "-A KUBE-FORWARD --frobnicate\n", "-R KUBE-FORWARD 1 -j DROP\n"] {
        let mut text = RestoreText::over([line.as_bytes().to_vec(), Vec::new(), Vec::new()], 16);
        text.block(Table::Filter, "one", |t| t.lines(Table::Filter, 0..line.len(), 1));
        text.block(Table::Filter, "two", |t| t.declare(CHAIN));
        let [Err(error)] = &transactions(text)[..] else { panic!("{line}") };
        assert_eq!(error.0, line.trim_end());
    }
}

#[test]
fn lists_of_affinity_are_named_like_their_chain() {
    let list =
        ChainId::Hashed(Prefix::Sep, crate::model::names::PortName::new("ns/s", "", Protocol::Tcp).endpoint_hash("x"));
    for m in [Match::RecentSet { list }, Match::RecentCheck { list, seconds: 10_800 }] {
        for family in Family::ALL {
            let rule = Rule::default().with(m.clone()).target(Target::Return);
            let again = encoded(family, Table::Nat, &rule);
            assert_eq!(parse(family, Table::Nat, again.strip_prefix("nat: -A KUBE-X").unwrap()), Some(rule));
        }
    }
}
