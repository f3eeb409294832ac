//! Encodes requests that change rules, and the batch around them that makes a transaction. Linux UAPI only.

use super::rule::put_expressions;
use crate::model::address::Family;
use crate::model::names::{Protocol, Table};
use crate::netlink::framing::{NLM_F_ACK, NLM_F_CREATE, nest, put, put_text, request};
use crate::netlink::nft::messages::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, NEWCHAIN, NEWRULE, NFNL_SUBSYS_NFTABLES, RULE_CHAIN, RULE_COMPAT,
    RULE_EXPRESSIONS, RULE_TABLE, number,
};
use crate::rules::rule::Rule;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES;
pub(in crate::netlink::nft) const DELCHAIN: u16 = NFNL_SUBSYS_NFTABLES | 5;
pub(in crate::netlink::nft) const DELRULE: u16 = NFNL_SUBSYS_NFTABLES | 8;

pub(in crate::netlink::nft) const NLM_F_APPEND: u16 = 0x800;

const TABLE_NAME: u16 = 1;

const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const COMPAT_PROTOCOL: u16 = 1;
const COMPAT_FLAGS: u16 = 2;

/// Offset of the flags in a message.
const FLAGS: usize = 6;

/// Attributes for table and chain in requests about chains, and in those about rules.
const CHAIN: [u16; 2] = [CHAIN_TABLE, CHAIN_NAME];
const RULE: [u16; 2] = [RULE_TABLE, RULE_CHAIN];

/// A base chain: name, hook, priority, type.
type BaseChain = (&'static str, u32, i32, &'static str);

/// Returns the base chains of a table as iptables-nft creates them.
const fn base_chains(table: Table) -> &'static [BaseChain] {
    match table {
        Table::Filter => &[("INPUT", 1, 0, "filter"), ("FORWARD", 2, 0, "filter"), ("OUTPUT", 3, 0, "filter")],
        Table::Nat => &[
            ("PREROUTING", 0, -100, "nat"),
            ("INPUT", 1, 100, "nat"),
            ("OUTPUT", 3, -100, "nat"),
            ("POSTROUTING", 4, 100, "nat"),
        ],
        Table::Mangle => &[
            ("PREROUTING", 0, -150, "filter"),
            ("INPUT", 1, -150, "filter"),
            ("FORWARD", 2, -150, "filter"),
            ("OUTPUT", 3, -150, "route"),
            ("POSTROUTING", 4, -150, "filter"),
        ],
    }
}

/// Builds one transaction of one table.
#[derive(Debug)]
pub(in crate::netlink::nft) struct Batch {
    family: Family,
    table: Table,
    out: Vec<u8>,
    sequence: u32,
    /// Offset of the latest request.
    latest: usize,
    /// Whether the batch creates the base chains.
    based: bool,
    scratch: Vec<u8>,
}

impl Batch {
    /// Starts a batch that creates the table if it is missing.
    pub(in crate::netlink::nft) fn new(family: Family, table: Table, capacity: usize) -> Self {
        let out = Vec::with_capacity(capacity);
        let mut batch = Self { family, table, out, sequence: 0, latest: 0, based: false, scratch: Vec::new() };
        batch.border(BATCH_BEGIN);
        batch.request(NEWTABLE, NLM_F_CREATE, |out| put_text(TABLE_NAME, table.name().as_bytes(), out));
        batch
    }

    /// Appends the first or the last message of a batch, which names the subsystem of all others.
    fn border(&mut self, kind: u16) {
        request(kind, 0, self.sequence, 0, &mut self.out, |_| {});
        let end = self.out.len();
        self.out[end - 2..].copy_from_slice(&(NFNL_SUBSYS_NFTABLES >> 8).to_be_bytes());
        self.sequence += 1;
    }

    fn request(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        self.latest = self.out.len();
        request(kind, flags, self.sequence, number(self.family), &mut self.out, fill);
        self.sequence += 1;
    }

    /// Creates the table's base chains if they are missing; existing ones keep their policies.
    pub(in crate::netlink::nft) fn base(&mut self) {
        if std::mem::replace(&mut self.based, true) {
            return;
        }
        let table = self.table;
        for &(name, hook, priority, kind) in base_chains(table) {
            self.request(NEWCHAIN, NLM_F_CREATE, |out| {
                put_place(CHAIN, table, name.as_bytes(), out);
                nest(CHAIN_HOOK, out, |out| {
                    put(HOOK_NUMBER, &hook.to_be_bytes(), out);
                    put(HOOK_PRIORITY, &priority.to_be_bytes(), out);
                });
                put_text(CHAIN_TYPE, kind.as_bytes(), out);
            });
        }
    }

    /// Creates or empties a chain.
    pub(in crate::netlink::nft) fn declare(&mut self, name: &[u8]) {
        let table = self.table;
        self.request(NEWCHAIN, NLM_F_CREATE, |out| put_place(CHAIN, table, name, out));
        self.request(DELRULE, 0, |out| put_place(RULE, table, name, out));
    }

    /// Appends or prepends a rule to a chain.
    pub(in crate::netlink::nft) fn rule(&mut self, chain: &[u8], rule: &Rule, behind: bool) {
        let flags = if behind { NLM_F_CREATE | NLM_F_APPEND } else { NLM_F_CREATE };
        let (family, table, mut scratch) = (self.family, self.table, std::mem::take(&mut self.scratch));
        self.request(NEWRULE, flags, |out| {
            put_place(RULE, table, chain, out);
            nest(RULE_EXPRESSIONS, out, |out| put_expressions(family, rule, &mut scratch, out));
            if let Some(protocol) = rule.protocol {
                put_compat(protocol, out);
            }
        });
        self.scratch = scratch;
    }

    /// Deletes an empty chain.
    pub(in crate::netlink::nft) fn delete(&mut self, name: &[u8]) {
        let table = self.table;
        self.request(DELCHAIN, 0, |out| put_place(CHAIN, table, name, out));
    }

    /// Returns the bytes, and the sequence number whose acknowledgement confirms the whole transaction.
    pub(in crate::netlink::nft) fn finish(mut self) -> (Vec<u8>, u32) {
        let last = self.sequence - 1;
        let flags = self.latest + FLAGS;
        let with_ack = u16::from_ne_bytes([self.out[flags], self.out[flags + 1]]) | NLM_F_ACK;
        self.out[flags..flags + 2].copy_from_slice(&with_ack.to_ne_bytes());
        self.border(BATCH_END);
        (self.out, last)
    }
}

/// Appends the attributes of a table and a chain.
fn put_place([table_kind, chain_kind]: [u16; 2], table: Table, chain: &[u8], out: &mut Vec<u8>) {
    put_text(table_kind, table.name().as_bytes(), out);
    put_text(chain_kind, chain, out);
}

/// Appends the protocol for which the rule's extensions are checked.
fn put_compat(protocol: Protocol, out: &mut Vec<u8>) {
    nest(RULE_COMPAT, out, |out| {
        put(COMPAT_PROTOCOL, &u32::from(protocol.number()).to_be_bytes(), out);
        put(COMPAT_FLAGS, &0u32.to_be_bytes(), out);
    });
}
