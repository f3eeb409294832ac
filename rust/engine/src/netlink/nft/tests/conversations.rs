//! Whole conversations with a simulated kernel.

use super::*;
use crate::netlink::framing::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, request};

const NEWCHAIN: u16 = 10 << 8 | 3;
const NEWRULE: u16 = 10 << 8 | 6;
const NEWGEN: u16 = 10 << 8 | 15;
const GENERATION: u32 = 7;

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

fn chain(sequence: u32, table: &str, name: &str, is_base: bool) -> Bytes {
    answer(NEWCHAIN, 0, sequence, 2, |out| {
        put(1, &[table.as_bytes(), b"\0"].concat(), out);
        put(3, &[name.as_bytes(), b"\0"].concat(), out);
        if is_base {
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

/// Reads from a simulated kernel with one chain and these rules.
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
    assert!(observed.chains.is_empty() && observed.entry_jumps.is_empty() && !observed.firewall_exists);
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
        let held = observed.unwrap().held;
        assert_eq!(held.iter().map(|(id, by)| (id.name(), &**by)).collect::<Vec<_>>(), [(svc.to_owned(), "MINE")]);
    }
    for (table, chain, code, to, is_entry_jump) in [
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
        assert_eq!(observed.is_err(), is_entry_jump, "{table} {chain} {code} {to:?}");
    }
}

#[test]
fn whatever_changes_meanwhile_makes_it_begin_again() {
    let start = [generation(1, 7), chain(2, "nat", "KUBE-MARK-MASQ", false), done(NLMSG_DONE, 2, 0)];
    let ends: [&[Bytes]; 7] = [
        // Another generation ID at the end, in any response, or reported by the kernel.
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
            // With user data, which may hold more than the expressions.
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
    assert_eq!(reader.feed(&generation(5, 7)), Ok(ReadStep::Done));
    assert_eq!(reader.take().unwrap().chains.len(), 1);
    assert!(reader.take().is_none(), "taken already");
}
