//! Netlink framing, encoded and decoded: messages, and attributes with their nesting and alignment. Linux UAPI only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `struct nlmsghdr`, `struct nfgenmsg`, `struct nlattr`.
pub(crate) const HEADER: usize = 16;
pub(crate) const NFGENMSG: usize = 4;
const ATTRIBUTE: usize = 4;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

const NESTED: u16 = 0x8000;
/// Masks the flags for nesting and byte order.
const TYPE_MASK: u16 = 0x3fff;

/// Rounds up to the alignment of netlink, four bytes. `length` is that of a slice, which leaves room above it.
const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Returns the error of a `NLMSG_DONE` or `NLMSG_ERROR` body, which begins with a negative errno or 0.
pub(crate) fn errno(body: &[u8]) -> Option<i32> {
    let code = i32::from_ne_bytes(*body.first_chunk()?);
    // Saturates at -2^31 alone, which is not an errno: it stays a failure with a number of no meaning.
    (code != 0).then(|| code.saturating_abs())
}

/// The fields of a message's header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
}

/// Returns the next message as header and body, or `None` if it is truncated.
pub(crate) fn message<'a>(data: &mut &'a [u8]) -> Option<(Header, &'a [u8])> {
    let header = data.first_chunk::<HEADER>()?;
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let length = usize::try_from(word(0)).ok()?;
    let read = Header { kind: half(4), flags: half(6), sequence: word(8) };
    let body = data.get(HEADER..length)?;
    *data = data.get(aligned(length)..).unwrap_or_default();
    Some((read, body))
}

/// Returns an attribute's IP address, whose family follows from its length.
pub(crate) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.try_into().ok().map(|v: [u8; 4]| IpAddr::V4(Ipv4Addr::from(v))),
        16 => value.try_into().ok().map(|v: [u8; 16]| IpAddr::V6(Ipv6Addr::from(v))),
        _ => None,
    }
}

/// The answer to a request that asked for one, or that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The sequence number of the request.
    pub sequence: u32,
    /// Why it failed.
    pub error: Option<i32>,
}

/// Returns the acknowledgements in a datagram. Takes any bytes.
pub fn acknowledgements(mut data: &[u8]) -> impl Iterator<Item = Acknowledgement> {
    std::iter::from_fn(move || {
        loop {
            let (Header { kind, sequence, .. }, body) = message(&mut data)?;
            if kind == NLMSG_ERROR && body.len() >= 4 {
                return Some(Acknowledgement { sequence, error: errno(body) });
            }
        }
    })
}

/// Appends one request; `fill` appends its attributes.
pub(crate) fn request(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]); // the length, once it is known
    out.extend(kind.to_ne_bytes());
    out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]); // port ID: the kernel fills it in
    out.extend([family, 0, 0, 0]);
    fill(out);
    let length = u32::try_from(out.len() - start).expect("a request holds one chain or rule of ours");
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Appends one attribute, padded.
pub(crate) fn put(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    put_parts(kind, [value, &[]], out);
}

/// Appends a text attribute, terminated by NUL.
pub(crate) fn put_text(kind: u16, text: &[u8], out: &mut Vec<u8>) {
    put_parts(kind, [text, b"\0"], out);
}

fn put_parts(kind: u16, [value, end]: [&[u8]; 2], out: &mut Vec<u8>) {
    let length = attribute_length(ATTRIBUTE + value.len() + end.len());
    out.extend(length);
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.extend(end);
    out.resize(aligned(out.len()), 0);
}

/// Attributes hold names of at most 256 bytes, the fixed structures of extensions, and one rule's expressions. A longer
/// one must not be sent: the kernel would take what is behind the stated length for further attributes.
fn attribute_length(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("an attribute is far below 64 KiB").to_ne_bytes()
}

/// Appends a nested attribute; `fill` appends its content.
pub(crate) fn nest(kind: u16, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put(kind | NESTED, &[], out);
    fill(out);
    let length = attribute_length(out.len() - start);
    out[start..start + 2].copy_from_slice(&length);
}

/// Iterates over attributes as `(type, value)`, flags removed from the type. Yields `None` and ends where one is
/// truncated.
pub(crate) fn attributes(mut data: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let one = attribute(&mut data);
        if one.is_none() {
            data = &[];
        }
        Some(one)
    })
}

fn attribute<'a>(data: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let [a, b, c, d] = *data.first_chunk::<ATTRIBUTE>()?;
    let length = usize::from(u16::from_ne_bytes([a, b]));
    let value = data.get(ATTRIBUTE..length)?;
    *data = data.get(aligned(length)..).unwrap_or_default();
    Some((u16::from_ne_bytes([c, d]) & TYPE_MASK, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledgement(sequence: u32, code: i32) -> Vec<u8> {
        let mut out = Vec::new();
        // The code stands where requests of netfilter have their family.
        request(NLMSG_ERROR, 0, sequence, 0, &mut out, |_| {});
        let end = out.len();
        out[end - 4..].copy_from_slice(&code.to_ne_bytes());
        out
    }

    #[test]
    fn acknowledgements_are_found_among_other_messages() {
        let mut datagram = acknowledgement(7, 0);
        request(0x0102, 0, 8, AF_INET, &mut datagram, |out| put(1, b"abc", out));
        datagram.extend(acknowledgement(9, -16));
        datagram.extend(acknowledgement(10, i32::MIN));
        let found: Vec<_> = acknowledgements(&datagram).map(|a| (a.sequence, a.error)).collect();
        assert_eq!(found, [(7, None), (9, Some(16)), (10, Some(i32::MAX))]);
        let cut: Vec<_> = acknowledgements(&datagram[..datagram.len() - 1]).map(|a| a.sequence).collect();
        assert_eq!(cut, [7, 9]);
    }
}
