//! Invariant: no datagrams make the netlink reader panic, and after a complete read one plan restores the desired
//! rules.
//!
//! The input is split into datagrams by their length prefixes, as in the recorded conversations. Sequence numbers are
//! corrected on the way, so that the fuzzer does not have to guess them.
#![no_main]

use ferrule_engine::Family;
use ferrule_engine::nft::ReadStep;
use ferrule_engine::Kind;
use ferrule_engine::{Engine, Options};
use libfuzzer_sys::fuzz_target;

const SEQUENCE: std::ops::Range<usize> = 8..12;

fuzz_target!(|data: &[u8]| {
    for family in Family::ALL {
        read(family, data);
    }
});

fn read(family: Family, mut data: &[u8]) {
    let mut engine = Engine::new(Options::new("node-1"));
    for kind in Kind::ALL {
        engine.replace(kind, &[b"[]"]).expect("a list");
    }
    let mut reader = engine.rule_reader(family);
    let mut request = reader.begin();
    while let Some((length, rest)) = data.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        data = rest;
        let mut datagram = datagram.to_vec();
        answer(&request, &mut datagram);
        match reader.feed(&datagram) {
            Ok(ReadStep::Wait) => {}
            Ok(ReadStep::Ask(next)) => request = next,
            Ok(ReadStep::Done) => break,
            Err(_) => {
                assert!(engine.observe_read(family, &mut reader).is_err());
                return;
            }
        }
    }
    if engine.observe_read(family, &mut reader).is_err() {
        return;
    }
    if let Some(plan) = engine.plan(family).expect("observed") {
        engine.commit(&plan).expect("in flight");
    }
    assert!(engine.plan(family).expect("observed").is_none());
}

/// Sets the sequence number of every message to that of the request.
fn answer(request: &[u8], datagram: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = datagram.get_mut(at..).filter(|rest| rest.len() >= 16) {
        header[SEQUENCE].copy_from_slice(&request[SEQUENCE]);
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        at += usize::try_from(length).unwrap_or(usize::MAX).clamp(16, 1 << 20).next_multiple_of(4);
    }
}
