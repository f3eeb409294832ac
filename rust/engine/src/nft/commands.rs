//! Requests that change rules, and the batch around them that makes a transaction. Linux UAPI only.

use super::encode::put_expressions;
use super::messages::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, NEWCHAIN, NEWRULE, NFNL_SUBSYS_NFTABLES, RULE_CHAIN, RULE_COMPAT,
    RULE_EXPRESSIONS, RULE_TABLE, number,
};
use super::structures::put_text;
use crate::address::Family;
use crate::names::{Protocol, Table};
use crate::netlink::{NLM_F_ACK, nest, put, request};
use crate::rule::Rule;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES;
pub(super) const DELCHAIN: u16 = NFNL_SUBSYS_NFTABLES | 5;
pub(super) const DELRULE: u16 = NFNL_SUBSYS_NFTABLES | 8;

const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const TABLE_NAME: u16 = 1;

const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const COMPAT_PROTOCOL: u16 = 1;
const COMPAT_FLAGS: u16 = 2;

/// Where the flags stand in a message.
const FLAGS: usize = 6;
/// `res_id` of a batch's first and last message.
const RESOURCE: usize = 18;

/// A chain that the kernel itself leads packets to: name, hook, priority, type.
type BaseChain = (&'static str, u32, i32, &'static str);

/// As iptables-nft makes them.
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

/// One transaction of one table in the making.
#[derive(Debug)]
pub(super) struct Batch {
    family: Family,
    table: Table,
    out: Vec<u8>,
    sequence: u32,
    /// Where the latest request begins.
    latest: usize,
    /// The base chains are in it.
    based: bool,
    scratch: Vec<u8>,
}

impl Batch {
    /// Sees to it that the table exists.
    pub(super) fn new(family: Family, table: Table, capacity: usize) -> Self {
        let out = Vec::with_capacity(capacity);
        let mut batch = Self { family, table, out, sequence: 0, latest: 0, based: false, scratch: Vec::new() };
        batch.border(BATCH_BEGIN);
        batch.request(NEWTABLE, NLM_F_CREATE, |batch| {
            put_text(TABLE_NAME, batch.table.name().as_bytes(), &mut batch.out);
        });
        batch
    }

    fn border(&mut self, kind: u16) {
        request(kind, 0, self.sequence, 0, &mut self.out, |_| {});
        let start = self.out.len() - 20;
        self.out[start + RESOURCE..].copy_from_slice(&(NFNL_SUBSYS_NFTABLES >> 8).to_be_bytes());
        self.sequence += 1;
    }

    fn request(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Self)) {
        self.latest = self.out.len();
        request(kind, flags, self.sequence, number(self.family), &mut self.out, |_| {});
        self.sequence += 1;
        fill(self);
        let length = u32::try_from(self.out.len() - self.latest).unwrap_or(u32::MAX);
        self.out[self.latest..self.latest + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn put_place(&mut self, [table, chain]: [u16; 2], name: &[u8]) {
        put_text(table, self.table.name().as_bytes(), &mut self.out);
        put_text(chain, name, &mut self.out);
    }

    /// Make the table's base chains, or leave them as they are, policies included.
    pub(super) fn base(&mut self) {
        if std::mem::replace(&mut self.based, true) {
            return;
        }
        for &(name, hook, priority, kind) in base_chains(self.table) {
            self.request(NEWCHAIN, NLM_F_CREATE, |batch| {
                batch.put_place([CHAIN_TABLE, CHAIN_NAME], name.as_bytes());
                nest(CHAIN_HOOK, &mut batch.out, |out| {
                    put(HOOK_NUMBER, &hook.to_be_bytes(), out);
                    put(HOOK_PRIORITY, &priority.to_be_bytes(), out);
                });
                put_text(CHAIN_TYPE, kind.as_bytes(), &mut batch.out);
            });
        }
    }

    /// Make a chain, or empty it.
    pub(super) fn declare(&mut self, name: &[u8]) {
        self.request(NEWCHAIN, NLM_F_CREATE, |batch| batch.put_place([CHAIN_TABLE, CHAIN_NAME], name));
        self.request(DELRULE, 0, |batch| batch.put_place([RULE_TABLE, RULE_CHAIN], name));
    }

    /// A rule, behind those that are there or before them.
    pub(super) fn rule(&mut self, chain: &[u8], rule: &Rule, behind: bool) {
        let flags = if behind { NLM_F_CREATE | NLM_F_APPEND } else { NLM_F_CREATE };
        self.request(NEWRULE, flags, |batch| {
            batch.put_place([RULE_TABLE, RULE_CHAIN], chain);
            let Self { family, out, scratch, .. } = batch;
            nest(RULE_EXPRESSIONS, out, |out| put_expressions(*family, rule, scratch, out));
            if let Some(protocol) = rule.protocol {
                put_compat(protocol, out);
            }
        });
    }

    /// Delete an empty chain.
    pub(super) fn delete(&mut self, name: &[u8]) {
        self.request(DELCHAIN, 0, |batch| batch.put_place([CHAIN_TABLE, CHAIN_NAME], name));
    }

    /// The bytes, and the sequence number whose acknowledgement says that all of it took effect.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let last = self.sequence - 1;
        let flags = self.latest + FLAGS;
        let with_ack = u16::from_ne_bytes([self.out[flags], self.out[flags + 1]]) | NLM_F_ACK;
        self.out[flags..flags + 2].copy_from_slice(&with_ack.to_ne_bytes());
        self.border(BATCH_END);
        (self.out, last)
    }
}

/// For which protocol the rule's extensions are checked.
fn put_compat(protocol: Protocol, out: &mut Vec<u8>) {
    nest(RULE_COMPAT, out, |out| {
        put(COMPAT_PROTOCOL, &u32::from(super::encode::number(protocol)).to_be_bytes(), out);
        put(COMPAT_FLAGS, &0u32.to_be_bytes(), out);
    });
}
