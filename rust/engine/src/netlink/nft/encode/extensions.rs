//! Encodes matches and targets with the structures of the kernel's xtables modules: the inverse of
//! `decode::extensions`.
//!
//! Every extension is encoded in its oldest sufficient form, which every iptables-nft can list. Bytes that the kernel
//! ignores in the given mode are zeros.

use std::net::{IpAddr, SocketAddr};

use crate::model::address::Family;
use crate::model::names::Protocol;
use crate::netlink::framing::{put, put_text};
use crate::rules::matches::{CtState, Match, Side};
use crate::rules::rule::Target;

const EXTENSION_NAME: u16 = 1;
const EXTENSION_REVISION: u16 = 2;
const EXTENSION_INFO: u16 = 3;

/// A structure, filled at fixed offsets.
struct Structure<const SIZE: usize>([u8; SIZE]);

impl<const SIZE: usize> Structure<SIZE> {
    const fn new() -> Self {
        Self([0; SIZE])
    }

    fn bytes(mut self, at: usize, value: &[u8]) -> Self {
        self.0[at..at + value.len()].copy_from_slice(value);
        self
    }

    fn u8(self, at: usize, value: u8) -> Self {
        self.bytes(at, &[value])
    }

    fn u16(self, at: usize, value: u16) -> Self {
        self.bytes(at, &value.to_ne_bytes())
    }

    fn u32(self, at: usize, value: u32) -> Self {
        self.bytes(at, &value.to_ne_bytes())
    }

    fn address(self, at: usize, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.bytes(at, &address.octets()),
            IpAddr::V6(address) => self.bytes(at, &address.octets()),
        }
    }
}

/// Appends the attributes of a "match" or "target" expression.
fn extension(name: &str, revision: u32, info: &[u8], out: &mut Vec<u8>) {
    put_text(EXTENSION_NAME, name.as_bytes(), out);
    put(EXTENSION_REVISION, &revision.to_be_bytes(), out);
    put(EXTENSION_INFO, info, out);
}

/// Appends the data of a "match" expression.
pub(in crate::netlink::nft) fn put_match(m: &Match, out: &mut Vec<u8>) {
    match m {
        Match::Comment(comment) => {
            extension("comment", 0, &Structure::<256>::new().bytes(0, comment.as_str().as_bytes()).0, out);
        }
        Match::LocalAddress(side) => addrtype(*side, out),
        Match::Port { protocol, destination } => match destination {
            None => ports(*protocol, 0, u16::MAX, out),
            Some(port) => ports(*protocol, *port, *port, out),
        },
        Match::PortRange { protocol, low, high } => ports(*protocol, *low, *high, out),
        Match::Conntrack(states) => conntrack(states.value, states.negated, out),
        Match::Mark { negated, value, mask } => {
            let info = Structure::<16>::new().u32(0, *value).u32(4, *mask).u8(8, u8::from(*negated));
            extension("mark", 1, &info.0, out);
        }
        Match::Nfacct(counter) => {
            extension("nfacct", 0, &Structure::<40>::new().bytes(0, counter.text().as_bytes()).0, out);
        }
        Match::RecentSet { list } => recent(2, 0, &list.name(), out),
        Match::RecentCheck { list, seconds } => recent(1 | 32, *seconds, &list.name(), out),
        Match::Statistic(probability) => {
            extension("statistic", 0, &Structure::<24>::new().u32(4, probability.0).0, out);
        }
    }
}

/// Appends the data of a "target" expression; nothing for targets that are verdicts.
pub(in crate::netlink::nft) fn put_target(family: Family, target: &Target, out: &mut Vec<u8>) {
    match target {
        Target::SetXmark { value, mask } => {
            extension("MARK", 2, &Structure::<8>::new().u32(0, *value).u32(4, *mask).0, out);
        }
        Target::Reject => {
            let port_unreachable = match family {
                Family::V4 => 3,
                Family::V6 => 4,
            };
            extension("REJECT", 0, &Structure::<8>::new().u32(0, port_unreachable).0, out);
        }
        Target::Masquerade { random_fully } => {
            let flags = u32::from(*random_fully) << 4;
            match family {
                Family::V4 => extension("MASQUERADE", 0, &Structure::<24>::new().u32(0, 1).u32(4, flags).0, out),
                Family::V6 => extension("MASQUERADE", 0, &Structure::<40>::new().u32(0, flags).0, out),
            }
        }
        Target::Dnat(to) => dnat(*to, out),
        Target::Jump(_) | Target::JumpFirewall | Target::Accept | Target::Drop | Target::Return => {}
    }
}

/// `struct xt_tcp`, `struct xt_udp`, `struct xt_sctp_info`
fn ports(protocol: Protocol, low: u16, high: u16, out: &mut Vec<u8>) {
    const DESTINATION_PORTS: u32 = 2;
    if protocol == Protocol::Sctp {
        let whole = (low, high) == (0, u16::MAX);
        let info = if whole {
            Structure::<296>::new()
        } else {
            Structure::new().u16(0, low).u16(2, high).u32(284, DESTINATION_PORTS)
        };
        return extension("sctp", 0, &info.0, out);
    }
    let info = Structure::<16>::new().u16(2, u16::MAX).u16(4, low).u16(6, high);
    extension(protocol.name(), 0, &info.0, out);
}

/// `struct xt_addrtype_info_v1`
fn addrtype(side: Side, out: &mut Vec<u8>) {
    const LOCAL: u16 = 1 << 2;
    let at = match side {
        Side::Source => 0,
        Side::Destination => 2,
    };
    extension("addrtype", 1, &Structure::<8>::new().u16(at, LOCAL).0, out);
}

/// `struct xt_conntrack_mtinfo3`
fn conntrack(states: CtState, negated: bool, out: &mut Vec<u8>) {
    const STATE: u16 = 1;
    let info = Structure::<168>::new().u16(146, STATE).u16(148, u16::from(negated)).u16(150, states.bits());
    extension("conntrack", 3, &info.0, out);
}

/// `struct xt_recent_mtinfo_v1`: by the whole source address.
fn recent(mode: u8, seconds: u32, list: &str, out: &mut Vec<u8>) {
    let info = Structure::<232>::new().u32(0, seconds).u8(8, mode).bytes(10, list.as_bytes()).bytes(212, &[0xff; 16]);
    extension("recent", 1, &info.0, out);
}

/// `struct nf_nat_range2`
fn dnat(to: SocketAddr, out: &mut Vec<u8>) {
    const ADDRESS_AND_PORT: u32 = 3;
    let port = to.port().to_be_bytes();
    let info = Structure::<48>::new().u32(0, ADDRESS_AND_PORT).address(4, to.ip()).address(20, to.ip());
    extension("DNAT", 2, &info.bytes(36, &port).bytes(38, &port).0, out);
}
