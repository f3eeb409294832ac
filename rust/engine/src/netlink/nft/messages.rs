//! Encodes `nf_tables` dump requests and decodes their responses. Linux UAPI only.
//!
//! Unknown attributes are never skipped, because they may change the meaning of a rule: [`fields`] returns `None` for
//! them. Numbers of `nf_tables` attributes are in network byte order.

use crate::model::address::Family;
use crate::netlink::framing::{
    AF_INET, AF_INET6, HEADER, Header, NFGENMSG, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, attributes,
    errno, message, put_text, request,
};

pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10 << 8;
pub(super) const NEWCHAIN: u16 = NFNL_SUBSYS_NFTABLES | 3;
const GETCHAIN: u16 = NFNL_SUBSYS_NFTABLES | 4;
pub(super) const NEWRULE: u16 = NFNL_SUBSYS_NFTABLES | 6;
const GETRULE: u16 = NFNL_SUBSYS_NFTABLES | 7;
const NEWGEN: u16 = NFNL_SUBSYS_NFTABLES | 15;
const GETGEN: u16 = NFNL_SUBSYS_NFTABLES | 16;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
/// The protocol for which an extension was checked; it does not affect packets.
pub(super) const RULE_COMPAT: u16 = 5;
const RULE_POSITION: u16 = 6;

/// The relevant attributes of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain<'a> {
    pub(super) table: &'a [u8],
    pub(super) name: &'a [u8],
    /// Whether it is a base chain.
    pub(super) is_base: bool,
}

/// A rule with undecoded expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawRule<'a> {
    pub(super) table: &'a [u8],
    pub(super) chain: &'a [u8],
    pub(super) expressions: &'a [u8],
    /// An unknown attribute, if there is one.
    pub(super) more: Option<u16>,
}

/// The content of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Generation(u32),
    Chain(Chain<'a>),
    Rule(RawRule<'a>),
    /// The end of a response, with the errno of a refusal.
    Done(Option<i32>),
    /// Another kind of message, or a truncated one.
    Unreadable,
}

/// One message with the fields of its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    pub(super) sequence: u32,
    /// Whether the kernel reports that the dump was interrupted by a change.
    pub(super) interrupted: bool,
    /// The lower half of the generation ID, if the message has one.
    pub(super) generation: Option<u16>,
    pub(super) message: Message<'a>,
}

/// Iterates over the messages of a datagram; ends after the first truncated one.
pub(super) fn messages(family: Family, mut data: &[u8]) -> impl Iterator<Item = Envelope<'_>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let envelope = envelope(family, &mut data);
        if envelope.is_none() {
            data = &[];
        }
        let cut = Envelope { sequence: 0, interrupted: false, generation: None, message: Message::Unreadable };
        Some(envelope.unwrap_or(cut))
    })
}

fn envelope<'a>(family: Family, data: &mut &'a [u8]) -> Option<Envelope<'a>> {
    let (Header { kind, flags, sequence }, body) = message(data)?;
    let interrupted = flags & NLM_F_DUMP_INTR != 0;
    if matches!(kind, NLMSG_DONE | NLMSG_ERROR) {
        let message = if body.len() < 4 { Message::Unreadable } else { Message::Done(errno(body)) };
        return Some(Envelope { sequence, interrupted, generation: None, message });
    }
    let [of, _, high, low] = *body.first_chunk::<NFGENMSG>()?;
    let attributes = &body[NFGENMSG..];
    let read = match kind {
        NEWGEN => generation(attributes).map(Message::Generation),
        NEWCHAIN if of == number(family) => chain(attributes).map(Message::Chain),
        NEWRULE if of == number(family) => rule(attributes).map(Message::Rule),
        _ => None,
    };
    let generation = Some(u16::from_be_bytes([high, low]));
    Some(Envelope { sequence, interrupted, generation, message: read.unwrap_or(Message::Unreadable) })
}

fn generation(data: &[u8]) -> Option<u32> {
    be32(fields::<4>(data)?[1])
}

/// Chains have attributes that are irrelevant to their rules: counters, policies, device names.
fn chain(data: &[u8]) -> Option<Chain<'_>> {
    let (mut table, mut name, mut is_base) = (None, None, false);
    for attribute in attributes(data) {
        let (kind, value) = attribute?;
        match kind {
            CHAIN_TABLE => table = Some(string(value)?),
            CHAIN_NAME => name = Some(string(value)?),
            CHAIN_HOOK => is_base = true,
            _ => {}
        }
    }
    Some(Chain { table: table?, name: name?, is_base })
}

fn rule(data: &[u8]) -> Option<RawRule<'_>> {
    let (mut table, mut chain, mut expressions, mut more) = (None, None, None, None);
    for attribute in attributes(data) {
        let (kind, value) = attribute?;
        match kind {
            RULE_TABLE => table = Some(string(value)?),
            RULE_CHAIN => chain = Some(string(value)?),
            RULE_EXPRESSIONS => expressions = Some(value),
            RULE_HANDLE | RULE_COMPAT | RULE_POSITION => {}
            unknown => more = Some(unknown),
        }
    }
    Some(RawRule { table: table?, chain: chain?, expressions: expressions.unwrap_or_default(), more })
}

/// Returns the attributes by type, each at most once; `None` if there is a type from `N` on.
pub(super) fn fields<const N: usize>(data: &[u8]) -> Option<[Option<&[u8]>; N]> {
    let mut found = [None; N];
    for attribute in attributes(data) {
        let (kind, value) = attribute?;
        let slot = found.get_mut(usize::from(kind))?;
        if slot.replace(value).is_some() {
            return None;
        }
    }
    Some(found)
}

/// Decodes a number in network byte order.
pub(super) fn be32(value: Option<&[u8]>) -> Option<u32> {
    value?.try_into().ok().map(u32::from_be_bytes)
}

/// Decodes a text with a NUL at its end and none before.
pub(super) fn string(value: &[u8]) -> Option<&[u8]> {
    value.strip_suffix(b"\0").filter(|text| !text.contains(&0))
}

pub(super) const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// Returns a request for the generation ID, which changes with every change of rules.
pub(super) fn ask_generation(sequence: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + NFGENMSG);
    request(GETGEN, 0, sequence, 0, &mut out, |_| {});
    out
}

/// Returns a request for the chains of all tables of a family.
pub(super) fn ask_chains(family: Family, sequence: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + NFGENMSG);
    request(GETCHAIN, NLM_F_DUMP, sequence, number(family), &mut out, |_| {});
    out
}

/// Returns a request for the rules of one chain. (The kernel finds a chain by its hash. A dump of a whole table counts
/// from its first rule again for every datagram: thirty seconds instead of one.)
pub(super) fn ask_rules(family: Family, table: &str, chain: &[u8], sequence: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    request(GETRULE, NLM_F_DUMP, sequence, number(family), &mut out, |out| {
        put_text(RULE_TABLE, table.as_bytes(), out);
        put_text(RULE_CHAIN, chain, out);
    });
    out
}
