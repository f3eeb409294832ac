//! Encodes a [`Rule`] as an `nf_tables` rule: the inverse of `decode::rule`.
//!
//! The header is encoded as loads and comparisons, as every iptables-nft does. Every match is an extension, even where
//! newer versions have a native form, because all versions can list extensions. Addresses come first: most packets fail
//! the first comparison.

use std::net::IpAddr;

use super::extensions::{put_match, put_target};
use crate::model::address::{Family, Net};
use crate::model::interface::Interface;
use crate::netlink::framing::{nest, put, put_text};
use crate::netlink::nft::decode::rule::{CMP_EQ, CMP_NEQ, META_IIFNAME, META_L4PROTO, NETWORK_HEADER};
use crate::netlink::nft::decode::verdicts::{LIST_ELEMENT, NF_ACCEPT, NF_DROP, NFT_JUMP, NFT_RETURN, REGISTER_VERDICT};
use crate::rules::entry_jumps::FIREWALL;
use crate::rules::matches::Negatable;
use crate::rules::rule::{Rule, Target};

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// The first register of 16 bytes.
const REGISTER: u32 = 1;

const PAYLOAD_REGISTER: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;

const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;

const BITWISE_FROM: u16 = 1;
const BITWISE_TO: u16 = 2;
const BITWISE_LENGTH: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;

const CMP_REGISTER: u16 = 1;
const CMP_OPERATION: u16 = 2;
const CMP_DATA: u16 = 3;

const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;

const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// Size of an interface name in the kernel, in bytes.
const IFNAMSIZ: usize = 16;

/// Appends the list of a rule's expressions; `chain` is scratch space.
pub(in crate::netlink::nft) fn put_expressions(family: Family, rule: &Rule, chain: &mut Vec<u8>, out: &mut Vec<u8>) {
    let (source, destination) = match family {
        Family::V4 => (12, 16),
        Family::V6 => (8, 24),
    };
    if let Some(net) = &rule.destination {
        address(destination, net, out);
    }
    if let Some(net) = &rule.source {
        address(source, net, out);
    }
    if let Some(name) = &rule.in_interface {
        interface(name, out);
    }
    if let Some(protocol) = rule.protocol {
        meta(META_L4PROTO, out);
        compare(false, &[protocol.number()], out);
    }
    for m in &rule.matches {
        expression("match", out, |out| put_match(m, out));
    }
    expression("counter", out, |_| {});
    match &rule.target {
        None => {}
        Some(Target::Jump(to)) => {
            chain.clear();
            to.write_name(chain);
            verdict(NFT_JUMP, Some(chain), out);
        }
        Some(Target::JumpFirewall) => verdict(NFT_JUMP, Some(FIREWALL.as_bytes()), out),
        Some(Target::Accept) => verdict(NF_ACCEPT, None, out),
        Some(Target::Drop) => verdict(NF_DROP, None, out),
        Some(Target::Return) => verdict(NFT_RETURN, None, out),
        Some(target) => expression("target", out, |out| put_target(family, target, out)),
    }
}

fn expression(name: &str, out: &mut Vec<u8>, data: impl FnOnce(&mut Vec<u8>)) {
    nest(LIST_ELEMENT, out, |out| {
        put_text(EXPRESSION_NAME, name.as_bytes(), out);
        nest(EXPRESSION_DATA, out, data);
    });
}

fn put_number(kind: u16, value: u32, out: &mut Vec<u8>) {
    put(kind, &value.to_be_bytes(), out);
}

fn put_value(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    nest(kind, out, |out| put(DATA_VALUE, value, out));
}

/// Appends the comparison of an address. Of a network whose prefix ends with a byte, only the leading bytes are
/// compared.
fn address(offset: u32, net: &Negatable<Net>, out: &mut Vec<u8>) {
    let Negatable { negated, value: net } = net;
    let mut bytes = [0; 16];
    let length = match net.addr() {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            4
        }
        IpAddr::V6(ip) => {
            bytes = ip.octets();
            16
        }
    };
    let bits = usize::from(net.prefix_len());
    let width = if bits % 8 == 0 && bits > 0 { bits / 8 } else { length };
    expression("payload", out, |out| {
        put_number(PAYLOAD_REGISTER, REGISTER, out);
        put_number(PAYLOAD_BASE, NETWORK_HEADER, out);
        put_number(PAYLOAD_OFFSET, offset, out);
        put_number(PAYLOAD_LENGTH, u32::try_from(width).unwrap_or(0), out);
    });
    if bits != 8 * width {
        let mask = u128::MAX.checked_shl(128 - u32::from(net.prefix_len())).unwrap_or(0).to_be_bytes();
        expression("bitwise", out, |out| {
            put_number(BITWISE_FROM, REGISTER, out);
            put_number(BITWISE_TO, REGISTER, out);
            put_number(BITWISE_LENGTH, u32::try_from(width).unwrap_or(0), out);
            put_value(BITWISE_MASK, &mask[..width], out);
            put_value(BITWISE_XOR, &[0; 16][..width], out);
        });
    }
    compare(*negated, &bytes[..width], out);
}

/// Appends the comparison of an interface name: with its final NUL, or without it for a prefix.
fn interface(name: &Negatable<Interface>, out: &mut Vec<u8>) {
    meta(META_IIFNAME, out);
    let text = name.value.as_str();
    let mut bytes = [0; IFNAMSIZ];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    let compared = match text.strip_suffix('+') {
        Some(beginning) => &bytes[..beginning.len()],
        None => &bytes[..],
    };
    compare(name.negated, compared, out);
}

fn meta(key: u32, out: &mut Vec<u8>) {
    expression("meta", out, |out| {
        put_number(META_REGISTER, REGISTER, out);
        put_number(META_KEY, key, out);
    });
}

fn compare(negated: bool, value: &[u8], out: &mut Vec<u8>) {
    expression("cmp", out, |out| {
        put_number(CMP_REGISTER, REGISTER, out);
        put_number(CMP_OPERATION, if negated { CMP_NEQ } else { CMP_EQ }, out);
        put_value(CMP_DATA, value, out);
    });
}

fn verdict(code: u32, chain: Option<&[u8]>, out: &mut Vec<u8>) {
    expression("immediate", out, |out| {
        put_number(IMMEDIATE_REGISTER, REGISTER_VERDICT, out);
        nest(IMMEDIATE_DATA, out, |out| {
            nest(DATA_VERDICT, out, |out| {
                put_number(VERDICT_CODE, code, out);
                if let Some(chain) = chain {
                    put_text(VERDICT_CHAIN, chain, out);
                }
            });
        });
    });
}
