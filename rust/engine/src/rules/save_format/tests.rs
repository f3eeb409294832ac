//! Spellings of other iptables versions, and foreign rules.

use super::parse::parse;
use super::words::words;
use crate::model::address::Family;
use crate::model::names::Table;

fn again(family: Family, table: Table, text: &str) -> Option<String> {
    let mut out = Vec::new();
    parse(family, table, text)?.write_to(family, &mut out);
    Some(String::from_utf8(out).unwrap())
}

#[test]
fn other_spellings_mean_the_same_rule() {
    for (given, canonical) in [
        (" -m comment --comment x -m tcp -p tcp -d 10.0.0.1 --dport 80 -j DROP", None),
        (
            " -d 10.0.0.1 -p tcp -m comment --comment \"a b\" -m tcp --dport 80 -j REJECT",
            Some(
                " -d 10.0.0.1/32 -p tcp -m comment --comment \"a b\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
            ),
        ),
        (" -p tcp -d 10.0.0.1/32 -j ACCEPT", Some(" -d 10.0.0.1/32 -p tcp -j ACCEPT")),
        (" -j MARK --or-mark 0x4000", Some(" -j MARK --set-xmark 0x4000/0x4000")),
        (" -j MARK --xor-mark 0x4000", Some(" -j MARK --set-xmark 0x4000/0x0")),
        (" -s 0.0.0.0/0 -j DROP", Some(" -j DROP")),
        (" -p udp -m udp --dport :4095 -j DROP", Some(" -p udp -m udp --dport 0:4095 -j DROP")),
        (" -p tcp -m tcp --dport 65520: -j DROP", Some(" -p tcp -m tcp --dport 65520:65535 -j DROP")),
    ] {
        // `--dport` before its `-m tcp` does not belong to any match; iptables-save never prints that.
        if let Some(canonical) = canonical {
            assert_eq!(again(Family::V4, Table::Filter, given).as_deref(), Some(canonical), "{given}");
        }
    }
}

#[test]
fn what_we_would_not_write_is_not_recognised() {
    for foreign in [
        " -m comment --comment \"open -j DROP",
        " -m limit --limit 3/min -j DROP",
        " -d 10.0.0.1/32 -g KUBE-SERVICES",
        " ! -j DROP",
        " ! ! -d 10.0.0.1/32",
        " -j DOCKER",
        " -j DNAT --to-destination 10.0.0.1",
        " -j DNAT --to-destination [fd00::1]:80",
        " -d fd00::1/128 -j DROP",
        " -m recent --set -j DROP",
        " -m tcp --dport 80:90 -j DROP",
        " -m tcp --dport 80:81 --dport 80",
        " -m tcp --dport 16:15",
        " -m tcp --sport 80",
        " -j REJECT --reject-with tcp-reset",
        " --dport 80",
        " -m statistic --mode nth --every 2",
        " -m comment --comment \"semi'quote\"",
        " -j",
        " -m",
        " -d",
    ] {
        assert_eq!(again(Family::V4, Table::Nat, foreign), None, "{foreign}");
    }
}

#[test]
fn escapes_inside_quotes_are_undone() {
    assert_eq!(words(r#"a "b \" c" d"#), Some(vec!["a".into(), "b \" c".into(), "d".into()]));
    assert_eq!(words("a \"b"), None);
}
