//! Named packet counters of the kernel (`nfnetlink_acct`): encodes requests and decodes responses.

use crate::netlink::framing::{
    Header, NFGENMSG, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, attributes, message, put_text, request,
};

const ACCT_NEW: u16 = 7 << 8;
const ACCT_GET: u16 = 7 << 8 | 1;

const NAME: u16 = 1;
const PACKETS: u16 = 2;
const BYTES: u16 = 3;

/// The packets and bytes counted since the counter was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Returns a request that creates a counter, with sequence number 1. Its acknowledgement is EEXIST if the counter
/// exists.
#[must_use]
pub fn create(name: &str) -> Vec<u8> {
    to(ACCT_NEW, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, name)
}

/// Returns a request for a counter's value.
#[must_use]
pub fn get(name: &str) -> Vec<u8> {
    to(ACCT_GET, 0, name)
}

fn to(kind: u16, flags: u16, name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    request(kind, flags, 1, 0, &mut out, |out| put_text(NAME, name.as_bytes(), out));
    out
}

/// Decodes the response to [`get`]. Returns `None` for a refusal and for any other bytes.
#[must_use]
pub fn count(mut answer: &[u8]) -> Option<Count> {
    let (Header { kind, .. }, body) = message(&mut answer)?;
    let (mut packets, mut bytes) = (None, None);
    for (kind, value) in attributes(body.get(NFGENMSG..).filter(|_| kind == ACCT_NEW)?).flatten() {
        match kind {
            PACKETS => packets = be64(value),
            BYTES => bytes = be64(value),
            _ => {}
        }
    }
    Some(Count { packets: packets?, bytes: bytes? })
}

fn be64(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::framing::put;

    #[test]
    fn requests_name_the_counter() {
        let mut expected = b"\x1c\0\0\0\0\x07\x05\x06\x01\0\0\0\0\0\0\0\0\0\0\0\x08\0\x01\0abc\0".to_vec();
        assert_eq!(create("abc"), expected);
        expected[4..8].copy_from_slice(b"\x01\x07\x01\0");
        assert_eq!(get("abc"), expected);
    }

    #[test]
    fn an_answer_has_both_numbers() {
        let answer = |kind, fields: &[u16]| {
            let mut out = Vec::new();
            request(kind, 0, 1, 0, &mut out, |out| {
                put_text(NAME, b"abc", out);
                for &field in fields {
                    put(field, &(u64::from(field) << 40).to_be_bytes(), out);
                }
            });
            out
        };
        let both = answer(ACCT_NEW, &[PACKETS, BYTES]);
        assert_eq!(count(&both), Some(Count { packets: 2 << 40, bytes: 3 << 40 }));
        assert_eq!(count(&answer(ACCT_NEW, &[PACKETS])), None);
        assert_eq!(count(&answer(ACCT_GET, &[PACKETS, BYTES])), None);
        for end in 0..both.len() {
            assert_eq!(count(&both[..end]), None);
        }
    }
}
