//! Decodes single rules, known and unknown ones.

use super::*;
use crate::rules::rule::Rule;

fn tcp(out: &mut Bytes) {
    meta(16, out);
    cmp(0, &[6], out);
}

/// Returns the rule as text, or the expression at which decoding failed.
fn text(family: Family, table: Table, fill: impl FnOnce(&mut Bytes)) -> Result<String, String> {
    let list = bytes(fill);
    let rule: Rule = decode(family, table, &list).map_err(|unknown| unknown.to_string())?;
    Ok(String::from_utf8(bytes(|out| rule.write_to(family, out))).unwrap())
}

fn v4(fill: impl FnOnce(&mut Bytes)) -> Result<String, String> {
    text(Family::V4, Table::Nat, fill)
}

#[test]
fn two_ways_of_saying_the_same() {
    let whole_and_masked = v4(|out| {
        payload(1, 16, 4, out);
        bitwise(&[0xff, 0xff, 0, 0], out);
        cmp(0, &[10, 96, 0, 0], out);
    });
    let leading_bytes = v4(|out| {
        payload(1, 16, 2, out);
        cmp(0, &[10, 96], out);
    });
    assert_eq!(whole_and_masked.as_deref(), Ok(" -d 10.96.0.0/16"));
    assert_eq!(whole_and_masked, leading_bytes);

    let of_the_packet = v4(|out| {
        payload(1, 9, 1, out);
        cmp(0, &[6], out);
    });
    assert_eq!(of_the_packet.as_deref(), Ok(" -p tcp"));
    assert_eq!(of_the_packet, v4(tcp));

    let native = v4(|out| {
        meta(3, out);
        bitwise(&0x4000_u32.to_ne_bytes(), out);
        cmp(1, &0x4000_u32.to_ne_bytes(), out);
    });
    let info = [0x4000_u32.to_ne_bytes(), 0x4000_u32.to_ne_bytes(), [1, 0, 0, 0], [0; 4]].concat();
    let compat = v4(|out| extension("match", "mark", 1, &info, out));
    assert_eq!(native.as_deref(), Ok(" -m mark ! --mark 0x4000/0x4000"));
    assert_eq!(native, compat);

    let native = v4(|out| {
        tcp(out);
        payload(2, 2, 2, out);
        cmp(0, &80_u16.to_be_bytes(), out);
    });
    let info =
        [[0, 0], [0xff, 0xff], 80_u16.to_ne_bytes(), 80_u16.to_ne_bytes(), [0; 2], [0; 2], [0; 2], [0; 2]].concat();
    let compat = v4(|out| {
        tcp(out);
        extension("match", "tcp", 0, &info, out);
    });
    assert_eq!(native.as_deref(), Ok(" -p tcp -m tcp --dport 80"));
    assert_eq!(native, compat);

    let at_most = v4(|out| {
        tcp(out);
        payload(2, 2, 2, out);
        cmp(3, &4095_u16.to_be_bytes(), out);
    });
    let between = v4(|out| {
        tcp(out);
        payload(2, 2, 2, out);
        range(&[0, 0], &4095_u16.to_be_bytes(), out);
    });
    assert_eq!(at_most.as_deref(), Ok(" -p tcp -m tcp --dport 0:4095"));
    assert_eq!(at_most, between);
}

#[test]
fn names_of_interfaces_end_or_go_on() {
    let named = |name: &'static [u8]| {
        v4(move |out| {
            meta(6, out);
            cmp(0, name, out);
        })
    };
    assert_eq!(named(b"eth0\0").as_deref(), Ok(" -i eth0"));
    assert_eq!(named(b"eth0\0\0\0\0\0\0\0\0\0\0\0\0").as_deref(), Ok(" -i eth0"));
    assert_eq!(named(b"veth").as_deref(), Ok(" -i veth+"));
    for bad in [&b"e\0th0\0"[..], b"", b"\0", b"eth+\0", b"0123456789abcdefg", b"e th\0", b"\xff\xfe"] {
        assert_eq!(named(bad), Err("cmp".to_owned()), "{bad:?}");
    }
}

#[test]
fn verdicts_are_targets() {
    let of = |table, code, chain| text(Family::V4, table, |out| verdict_of(code, chain, out));
    assert_eq!(of(Table::Nat, 1, None).as_deref(), Ok(" -j ACCEPT"));
    assert_eq!(of(Table::Nat, 0, None).as_deref(), Ok(" -j DROP"));
    assert_eq!(of(Table::Nat, -5, None).as_deref(), Ok(" -j RETURN"));
    assert_eq!(of(Table::Nat, -3, Some("KUBE-MARK-MASQ")).as_deref(), Ok(" -j KUBE-MARK-MASQ"));
    assert_eq!(of(Table::Filter, -3, Some("KUBE-FIREWALL")).as_deref(), Ok(" -j KUBE-FIREWALL"));
    for (table, code, chain) in [
        (Table::Nat, -3, None),
        (Table::Nat, 1, Some("KUBE-MARK-MASQ")),
        (Table::Nat, -3, Some("DOCKER")),
        (Table::Nat, -3, Some("KUBE-FIREWALL")),
        (Table::Filter, -3, Some("KUBE-MARK-MASQ")),
        (Table::Nat, -4, Some("KUBE-MARK-MASQ")),
        (Table::Nat, -1, None),
        (Table::Nat, 3, None),
    ] {
        assert_eq!(of(table, code, chain), Err("immediate".to_owned()), "{code} {chain:?}");
    }
}

#[test]
fn what_is_not_known_to_the_last_bit_is_unknown() {
    type Fill = fn(&mut Bytes);
    let cases: &[(&str, Fill)] = &[
        ("lookup", |out| expression("lookup", out, |_| {})),
        ("match limit of revision 0", |out| extension("match", "limit", 0, &[0; 40], out)),
        ("match mark of revision 2", |out| extension("match", "mark", 2, &[0; 16], out)),
        ("match mark of revision 1", |out| extension("match", "mark", 1, &[0; 12], out)),
        ("target MASQUERADE of revision 0", |out| extension("target", "MASQUERADE", 0, &[0; 24], out)),
        // Bits outside the mask: never true.
        ("cmp", |out| {
            payload(1, 16, 4, out);
            bitwise(&[0xff, 0xff, 0, 0], out);
            cmp(0, &[10, 96, 0, 1], out);
        }),
        // A mask with a hole.
        ("cmp", |out| {
            payload(1, 16, 4, out);
            bitwise(&[0xff, 0, 0xff, 0], out);
            cmp(0, &[10, 0, 1, 0], out);
        }),
        ("cmp", |out| {
            payload(1, 16, 4, out);
            cmp(2, &[10, 96, 0, 1], out); // less than
        }),
        ("cmp", |out| {
            payload(1, 16, 4, out);
            cmp(0, &[10, 96], out);
        }),
        // A comparison without a load, a load of an unknown field, a load before a load.
        ("cmp", |out| cmp(0, &[6], out)),
        ("a load that is not compared", |out| meta(16, out)),
        ("meta", |out| {
            meta(16, out);
            meta(16, out);
        }),
        // Ports of an unknown protocol.
        ("cmp", |out| {
            payload(2, 2, 2, out);
            cmp(0, &[0, 80], out);
        }),
        ("payload", |out| payload(2, 0, 2, out)),
        ("payload", |out| payload(1, 16, 5, out)),
        ("payload", |out| payload(1, 16, 0, out)),
        ("payload", |out| payload(1, u32::MAX, u32::MAX, out)),
        // Repeated, and after a match.
        ("cmp", |out| {
            tcp(out);
            tcp(out);
        }),
        ("cmp", |out| {
            extension("match", "comment", 0, &[0; 256], out);
            tcp(out);
        }),
        ("counter", |out| {
            verdict_of(1, None, out);
            expression("counter", out, |_| {});
        }),
        // An unknown attribute.
        ("cmp", |out| {
            meta(16, out);
            expression("cmp", out, |out| {
                number(1, 1, out);
                number(2, 0, out);
                nest(3, out, |out| put(1, &[6], out));
                number(4, 1, out);
            });
        }),
        ("a malformed one", |out| put(2, b"", out)),
        ("a malformed one", |out| out.extend([5])),
    ];
    for (unknown, fill) in cases {
        assert_eq!(v4(fill), Err((*unknown).to_owned()));
    }
}
