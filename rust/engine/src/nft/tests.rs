use super::*;
use crate::netlink::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, nest, put, request};
use crate::readback;
use crate::rule::Rule;

const NEWCHAIN: u16 = 10 << 8 | 3;
const NEWRULE: u16 = 10 << 8 | 6;
const NEWGEN: u16 = 10 << 8 | 15;
const GENERATION: u32 = 7;

type Bytes = Vec<u8>;

/// Conversations with a real kernel, and what iptables-nft-save printed then.
macro_rules! recorded {
    ($($name:literal),*) => {
        [$((
            $name,
            include_bytes!(concat!("../../tests/data/nft/", $name, ".datagrams")).as_slice(),
            include_bytes!(concat!("../../tests/data/nft/", $name, ".save")).as_slice(),
        )),*]
    };
}

/// Sessions and foreign rules; an interface; much of everything on IPv6; dispatch trees.
fn recordings() -> [(&'static str, &'static [u8], &'static [u8]); 4] {
    recorded!("affinity.ipv4", "bridge.ipv4", "mixed.ipv6", "tree.ipv4")
}

fn family_of(name: &str) -> Family {
    if name.ends_with('6') { Family::V6 } else { Family::V4 }
}

/// Each with its length before it.
fn datagrams(mut recording: &[u8]) -> Vec<Bytes> {
    let mut out = Vec::new();
    while let Some((length, rest)) = recording.split_first_chunk::<4>() {
        let (datagram, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        out.push(datagram.to_vec());
        recording = rest;
    }
    out
}

/// Where its messages end.
fn ends(datagram: &[u8]) -> Vec<usize> {
    let mut ends = vec![0];
    while let Some(header) = datagram[ends[ends.len() - 1]..].first_chunk::<4>() {
        ends.push(ends[ends.len() - 1] + u32::from_ne_bytes(*header) as usize);
    }
    ends
}

fn digester() -> Digester {
    Digester::new([9; 16])
}

fn read(family: Family, datagrams: &[Bytes]) -> Result<Observed, ReadError> {
    let mut reader = Reader::new(family, digester());
    reader.begin();
    for datagram in datagrams {
        if reader.feed(datagram)? == Step::Done {
            break;
        }
    }
    reader.take().ok_or(ReadError::Changed)
}

/// Everything that was seen, to compare.
fn facts(observed: &Observed) -> String {
    let mut chains: Vec<_> = observed.chains.iter().map(|(id, digest)| format!("{id} {digest:?}")).collect();
    chains.sort_unstable();
    let mut hooks: Vec<_> = observed.hooks.iter().map(|hook| format!("{hook:?}")).collect();
    hooks.sort_unstable();
    format!("{chains:#?} {hooks:#?} {:?} {} {}", observed.held, observed.firewall_exists, observed.trees)
}

#[test]
fn recorded_answers_mean_what_the_tool_printed() {
    for (name, recording, saved) in recordings() {
        let family = family_of(name);
        let netlink = read(family, &datagrams(recording)).unwrap();
        let text = readback::read(family, &digester(), saved).unwrap();
        assert!(netlink.chains.len() > 15 && netlink.hooks.len() > 10 && netlink.firewall_exists, "{name}");
        assert_eq!(netlink.trees, name.starts_with("tree"), "{name}");
        assert_eq!(facts(&netlink), facts(&text), "{name}");
    }
}

#[test]
fn answers_that_end_early_are_no_answers() {
    for (name, recording, _) in recordings() {
        let all = datagrams(recording);
        for cut in 0..all.len() {
            assert!(read(family_of(name), &all[..cut]).is_err(), "{name}: {cut} datagrams");
        }
        for at in (0..all.len()).step_by(9) {
            let whole = ends(&all[at]);
            for length in (1..all[at].len()).step_by(37).filter(|length| !whole.contains(length)) {
                let mut broken = all.clone();
                broken[at].truncate(length);
                assert!(read(family_of(name), &broken).is_err(), "{name}: datagram {at} ends after {length} bytes");
            }
        }
    }
}

#[test]
fn no_changed_byte_does_harm() {
    for (name, recording, _) in recordings() {
        let all = datagrams(recording);
        for at in (0..all.len()).step_by(13) {
            for byte in (0..all[at].len()).step_by(3) {
                for value in [0, 0xff] {
                    let mut broken = all[at].clone();
                    broken[byte] = value;
                    let mut reader = Reader::new(family_of(name), digester());
                    reader.begin();
                    let fed = all[..at].iter().all(|datagram| reader.feed(datagram).is_ok());
                    assert!(fed);
                    let _ = reader.feed(&broken);
                }
            }
        }
    }
}

// ---------------------------------------------------------------- single rules

fn bytes(fill: impl FnOnce(&mut Bytes)) -> Bytes {
    let mut out = Vec::new();
    fill(&mut out);
    out
}

fn number(kind: u16, n: u32, out: &mut Bytes) {
    put(kind, &n.to_be_bytes(), out);
}

fn expression(name: &str, out: &mut Bytes, data: impl FnOnce(&mut Bytes)) {
    nest(1, out, |out| {
        put(1, &[name.as_bytes(), b"\0"].concat(), out);
        nest(2, out, data);
    });
}

fn payload(base: u32, offset: u32, length: u32, out: &mut Bytes) {
    expression("payload", out, |out| {
        for (kind, n) in [(1, 1), (2, base), (3, offset), (4, length)] {
            number(kind, n, out);
        }
    });
}

fn meta(key: u32, out: &mut Bytes) {
    expression("meta", out, |out| {
        number(2, key, out);
        number(1, 1, out);
    });
}

fn bitwise(mask: &[u8], out: &mut Bytes) {
    expression("bitwise", out, |out| {
        number(1, 1, out);
        number(2, 1, out);
        number(3, u32::try_from(mask.len()).unwrap(), out);
        nest(4, out, |out| put(1, mask, out));
        nest(5, out, |out| put(1, &vec![0; mask.len()], out));
    });
}

fn cmp(operation: u32, value: &[u8], out: &mut Bytes) {
    expression("cmp", out, |out| {
        number(1, 1, out);
        number(2, operation, out);
        nest(3, out, |out| put(1, value, out));
    });
}

fn range(low: &[u8], high: &[u8], out: &mut Bytes) {
    expression("range", out, |out| {
        number(1, 1, out);
        number(2, 0, out);
        nest(3, out, |out| put(1, low, out));
        nest(4, out, |out| put(1, high, out));
    });
}

fn extension(what: &str, name: &str, revision: u32, info: &[u8], out: &mut Bytes) {
    expression(what, out, |out| {
        put(1, &[name.as_bytes(), b"\0"].concat(), out);
        number(2, revision, out);
        put(3, info, out);
    });
}

fn verdict_of(code: i32, chain: Option<&str>, out: &mut Bytes) {
    expression("immediate", out, |out| {
        number(1, 0, out);
        nest(2, out, |out| {
            nest(2, out, |out| {
                put(1, &code.to_be_bytes(), out);
                if let Some(chain) = chain {
                    put(2, &[chain.as_bytes(), b"\0"].concat(), out);
                }
            });
        });
    });
}

fn tcp(out: &mut Bytes) {
    meta(16, out);
    cmp(0, &[6], out);
}

/// The rule as text, or at which expression reading ended.
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
        // A comparison of nothing, a load of nothing, a load before a load.
        ("cmp", |out| cmp(0, &[6], out)),
        ("a load that is not compared", |out| meta(16, out)),
        ("meta", |out| {
            meta(16, out);
            meta(16, out);
        }),
        // The ports of an unknown protocol.
        ("cmp", |out| {
            payload(2, 2, 2, out);
            cmp(0, &[0, 80], out);
        }),
        ("payload", |out| payload(2, 0, 2, out)),
        ("payload", |out| payload(1, 16, 5, out)),
        ("payload", |out| payload(1, 16, 0, out)),
        ("payload", |out| payload(1, u32::MAX, u32::MAX, out)),
        // Twice, and behind a match.
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
        // An attribute more than is known.
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

// ---------------------------------------------------------------- conversations

fn answer(kind: u16, flags: u16, sequence: u32, family: u8, fill: impl FnOnce(&mut Bytes)) -> Bytes {
    let mut out = bytes(|out| request(kind, flags, sequence, family, out, fill));
    out[18..20].copy_from_slice(&u16::try_from(GENERATION).unwrap().to_be_bytes());
    out
}

fn done(kind: u16, sequence: u32, code: i32) -> Bytes {
    let mut out = answer(kind, 0, sequence, 0, |_| {});
    out[16..20].copy_from_slice(&code.to_ne_bytes());
    out
}

fn generation(sequence: u32, number_now: u32) -> Bytes {
    let mut out = answer(NEWGEN, 0, sequence, 0, |out| number(1, number_now, out));
    out[18..20].copy_from_slice(&u16::try_from(number_now).unwrap().to_be_bytes());
    out
}

fn chain(sequence: u32, table: &str, name: &str, hooked: bool) -> Bytes {
    answer(NEWCHAIN, 0, sequence, 2, |out| {
        put(1, &[table.as_bytes(), b"\0"].concat(), out);
        put(3, &[name.as_bytes(), b"\0"].concat(), out);
        if hooked {
            nest(4, out, |_| {});
        }
        number(77, 1, out);
    })
}

fn rule(sequence: u32, table: &str, name: &str, fill: impl FnOnce(&mut Bytes)) -> Bytes {
    answer(NEWRULE, 0, sequence, 2, |out| {
        put(1, &[table.as_bytes(), b"\0"].concat(), out);
        put(2, &[name.as_bytes(), b"\0"].concat(), out);
        put(3, &[0; 8], out);
        nest(4, out, fill);
    })
}

/// A kernel with one chain and these rules in it.
fn one_chain(table: &str, name: &str, rules: &[&dyn Fn(&mut Bytes)]) -> Result<Observed, ReadError> {
    let mut answers = vec![generation(1, GENERATION), chain(2, table, name, false), done(NLMSG_DONE, 2, 0)];
    answers.extend(rules.iter().map(|fill| rule(3, table, name, |out| fill(out))));
    answers.push(done(NLMSG_DONE, 3, 0));
    answers.push(generation(4, GENERATION));
    read(Family::V4, &answers)
}

#[test]
fn an_empty_kernel() {
    let observed = read(Family::V4, &[generation(1, 7), done(NLMSG_DONE, 2, 0), generation(3, 7)]).unwrap();
    assert!(observed.chains.is_empty() && observed.hooks.is_empty() && !observed.firewall_exists);
}

#[test]
fn a_rule_of_ours_that_is_unknown_ends_it_with_chain_and_expression() {
    let unknown = one_chain("nat", "KUBE-MARK-MASQ", &[&|out| expression("quota", out, |_| {})]);
    let expected = "nat KUBE-MARK-MASQ has a rule with an unknown expression: quota";
    assert_eq!(unknown.unwrap_err(), ReadError::NotUnderstood(expected.to_owned()));
}

#[test]
fn of_a_foreign_rule_it_matters_where_it_leads() {
    let quota = |out: &mut Bytes| expression("quota", out, |_| {});
    let svc = "KUBE-SVC-AAAAAAAAAAAAAAAA";
    for code in [-3, -4] {
        let observed = one_chain(
            "nat",
            "MINE",
            &[&|out| {
                quota(out);
                verdict_of(code, Some(svc), out);
            }],
        );
        assert_eq!(observed.unwrap().held.iter().map(|id| id.name()).collect::<Vec<_>>(), [svc]);
    }
    for (table, chain, code, to, is_hook) in [
        ("nat", "OUTPUT", -3, Some("KUBE-SERVICES"), true),
        ("nat", "OUTPUT", -4, Some("KUBE-SERVICES"), false),
        ("nat", "OUTPUT", -3, Some("DOCKER"), false),
        ("filter", "INPUT", -3, Some("KUBE-FIREWALL"), true),
        ("nat", "OUTPUT", -3, Some("KUBE-FIREWALL"), false),
        ("filter", "KUBE-FIREWALL", 0, None, true),
        ("filter", "INPUT", 0, None, false),
        ("filter", "KUBE-FIREWALL", 1, None, false),
    ] {
        let observed = one_chain(
            table,
            chain,
            &[&|out| {
                quota(out);
                verdict_of(code, to, out);
            }],
        );
        assert_eq!(observed.is_err(), is_hook, "{table} {chain} {code} {to:?}");
    }
}

#[test]
fn whatever_changes_meanwhile_makes_it_begin_again() {
    let start = [generation(1, 7), chain(2, "nat", "KUBE-MARK-MASQ", false), done(NLMSG_DONE, 2, 0)];
    let ends: [&[Bytes]; 7] = [
        // Another generation at the end, in any answer, or said by the kernel.
        &[done(NLMSG_DONE, 3, 0), generation(4, 8)],
        &[{
            let mut other = rule(3, "nat", "KUBE-MARK-MASQ", |_| {});
            other[19] += 1;
            other
        }],
        &[{
            let mut interrupted = rule(3, "nat", "KUBE-MARK-MASQ", |_| {});
            interrupted[6..8].copy_from_slice(&NLM_F_DUMP_INTR.to_ne_bytes());
            interrupted
        }],
        &[{
            let mut interrupted = done(NLMSG_DONE, 3, 0);
            interrupted[6..8].copy_from_slice(&NLM_F_DUMP_INTR.to_ne_bytes());
            interrupted
        }],
        &[done(NLMSG_ERROR, 3, -ENOENT)],
        &[done(NLMSG_DONE, 3, -EINTR)],
        &[done(NLMSG_ERROR, 3, -EAGAIN)],
    ];
    for end in ends {
        assert_eq!(read(Family::V4, &[&start, end].concat()).unwrap_err(), ReadError::Changed);
    }
    let refused = [&start, &[done(NLMSG_ERROR, 3, -1)][..]].concat();
    assert_eq!(read(Family::V4, &refused).unwrap_err(), ReadError::Refused(1));
}

#[test]
fn answers_that_do_not_fit_are_not_understood() {
    let start = [generation(1, 7), chain(2, "nat", "KUBE-MARK-MASQ", false), done(NLMSG_DONE, 2, 0)];
    let strange = [
        rule(3, "nat", "KUBE-SERVICES", |_| {}),
        rule(3, "filter", "KUBE-MARK-MASQ", |_| {}),
        rule(2, "nat", "KUBE-MARK-MASQ", |_| {}),
        chain(3, "nat", "KUBE-MARK-MASQ", false),
        generation(3, 7),
        answer(NEWRULE, 0, 3, 10, |_| {}),
        answer(NEWRULE, 0, 3, 2, |out| put(4, b"", out)),
        answer(NEWRULE + 100, 0, 3, 2, |_| {}),
        {
            // With a note for user space, which may say more than the expressions do.
            let mut noted = rule(3, "nat", "KUBE-MARK-MASQ", |_| {});
            put(7, b"note", &mut noted);
            let length = u32::try_from(noted.len()).unwrap();
            noted[..4].copy_from_slice(&length.to_ne_bytes());
            noted
        },
    ];
    for datagram in strange {
        let answers = [&start[..], &[datagram]].concat();
        assert!(matches!(read(Family::V4, &answers), Err(ReadError::NotUnderstood(_))), "{answers:?}");
    }
    let hooked = [generation(1, 7), chain(2, "nat", "KUBE-SERVICES", true)];
    assert!(matches!(read(Family::V4, &hooked), Err(ReadError::NotUnderstood(_))));
}

#[test]
fn a_reader_can_begin_again() {
    let mut reader = Reader::new(Family::V4, digester());
    reader.begin();
    assert!(reader.feed(&[1, 2, 3]).is_err());
    assert!(reader.take().is_none());
    reader.begin();
    let answers = [generation(2, 7), chain(3, "nat", "KUBE-MARK-MASQ", false), done(NLMSG_DONE, 3, 0)];
    for datagram in &answers {
        reader.feed(datagram).unwrap();
    }
    assert!(reader.take().is_none(), "not at its end");
    reader.feed(&done(NLMSG_DONE, 4, 0)).unwrap();
    assert_eq!(reader.feed(&generation(5, 7)), Ok(Step::Done));
    assert_eq!(reader.take().unwrap().chains.len(), 1);
    assert!(reader.take().is_none(), "taken already");
}
