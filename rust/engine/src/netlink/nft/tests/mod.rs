//! Compares recorded responses with recorded text. Helpers that build messages for all tests.

mod conversations;
mod rules;
mod writes;

use super::decode::rule::decode;
use super::reader::*;
use super::*;
use crate::model::address::Family;
use crate::model::names::{ChainId, Table};
use crate::netlink::framing::{nest, put};
use crate::read::observed::Observed;
use crate::read::saved_text;
use crate::rules::digest::Digester;

type Bytes = Vec<u8>;

/// Recorded conversations with a real kernel, with the output of iptables-nft-save.
macro_rules! recorded {
    ($($name:literal),*) => {
        [$((
            $name,
            include_bytes!(concat!("../../../../tests/data/nft/", $name, ".datagrams")).as_slice(),
            include_bytes!(concat!("../../../../tests/data/nft/", $name, ".save")).as_slice(),
        )),*]
    };
}

/// Sessions and foreign rules; an interface; many kinds of rules on IPv6; dispatch trees.
fn recordings() -> [(&'static str, &'static [u8], &'static [u8]); 4] {
    recorded!("affinity.ipv4", "bridge.ipv4", "mixed.ipv6", "tree.ipv4")
}

fn family_of(name: &str) -> Family {
    if name.ends_with('6') { Family::V6 } else { Family::V4 }
}

/// Splits a recording into datagrams, each preceded by its length.
fn datagrams(mut recording: &[u8]) -> Vec<Bytes> {
    let mut out = Vec::new();
    while let Some((length, rest)) = recording.split_first_chunk::<4>() {
        let (datagram, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        out.push(datagram.to_vec());
        recording = rest;
    }
    out
}

/// Returns the offsets at which messages end.
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
        if reader.feed(datagram)? == ReadStep::Done {
            break;
        }
    }
    reader.take().ok_or(ReadError::Changed)
}

/// Returns the observed state as text, for comparison.
fn facts(observed: &Observed) -> String {
    let mut chains: Vec<_> = observed.chains.iter().map(|(id, digest)| format!("{id} {digest:?}")).collect();
    chains.sort_unstable();
    let mut entry_jumps: Vec<_> = observed.entry_jumps.iter().map(|jump| format!("{jump:?}")).collect();
    entry_jumps.sort_unstable();
    format!("{chains:#?} {entry_jumps:#?} {:?} {} {}", observed.held, observed.firewall_exists, observed.trees)
}

#[test]
fn recorded_answers_mean_what_the_tool_printed() {
    for (name, recording, saved) in recordings() {
        let family = family_of(name);
        let netlink = read(family, &datagrams(recording)).unwrap();
        let text = saved_text::read(family, &digester(), saved).unwrap();
        assert!(netlink.chains.len() > 15 && netlink.entry_jumps.len() > 10 && netlink.firewall_exists, "{name}");
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
        for at in (0..all.len()).step_by(23) {
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
        for at in (0..all.len()).step_by(31) {
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

// ---------------------------------------------------------------- expressions

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
