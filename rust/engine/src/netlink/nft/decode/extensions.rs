//! Decodes extensions of iptables ("match", "target") from their structures, in the layout of x86-64 and arm64 kernels.
//!
//! A structure is identified by name, revision and size. Bytes that the kernel ignores in the given mode are ignored
//! here; all others must equal those of ferrule's rules. Numbers are in host byte order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::address::Family;
use crate::model::names::{ChainId, Protocol, Table};
use crate::netlink::nft::messages::{be32, fields, string};
use crate::rules::matches::{Comment, Counter, CtState, Match, Negatable, Side};
use crate::rules::probability::Probability;
use crate::rules::rule::Target;
use crate::rules::save_format::parse::is_branch;

/// Returns `(name, revision, structure)`.
fn extension(data: &[u8]) -> Option<(&[u8], u32, Info<'_>)> {
    let [None, name, revision, info] = fields::<4>(data)? else { return None };
    Some((string(name?)?, be32(revision)?, Info(info?)))
}

/// A structure, read at fixed offsets.
#[derive(Clone, Copy)]
struct Info<'a>(&'a [u8]);

impl<'a> Info<'a> {
    fn sized(self, size: usize) -> Option<Self> {
        (self.0.len() == size).then_some(self)
    }

    fn bytes(self, at: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(length)?)
    }

    fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(self, at: usize) -> Option<u16> {
        self.bytes(at, 2)?.try_into().ok().map(u16::from_ne_bytes)
    }

    fn be16(self, at: usize) -> Option<u16> {
        self.u16(at).map(u16::from_be)
    }

    fn u32(self, at: usize) -> Option<u32> {
        self.bytes(at, 4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// Returns `None` unless all bytes of the range are zero.
    fn empty(self, at: usize, length: usize) -> Option<()> {
        self.bytes(at, length)?.iter().all(|&b| b == 0).then_some(())
    }

    /// Returns the text up to the first NUL.
    fn text(self, at: usize, length: usize) -> Option<&'a str> {
        let field = self.bytes(at, length)?;
        let end = field.iter().position(|&b| b == 0)?;
        std::str::from_utf8(&field[..end]).ok()
    }

    /// Reads a `union nf_inet_addr`.
    fn address(self, family: Family, at: usize) -> Option<IpAddr> {
        match family {
            Family::V4 => {
                self.empty(at + 4, 12)?;
                Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(self.bytes(at, 4)?).ok()?)))
            }
            Family::V6 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(self.bytes(at, 16)?).ok()?))),
        }
    }
}

/// Decodes a match; `protocol` is the one in the rule's header.
pub(in crate::netlink::nft) fn a_match(family: Family, protocol: Option<Protocol>, data: &[u8]) -> Option<Match> {
    let (name, revision, info) = extension(data)?;
    match (name, revision) {
        (b"comment", 0) => comment(info.sized(256)?),
        (b"tcp", 0) => tcp(info.sized(16)?).filter(|_| protocol == Some(Protocol::Tcp)),
        (b"udp", 0) => udp(info.sized(16)?).filter(|_| protocol == Some(Protocol::Udp)),
        (b"sctp", 0) => sctp(info.sized(296)?).filter(|_| protocol == Some(Protocol::Sctp)),
        (b"addrtype", 1) => addrtype(info.sized(8)?),
        (b"conntrack", 3) => conntrack(info.sized(168)?),
        (b"mark", 1) => mark(info.sized(16)?),
        (b"nfacct", 0 | 1) => nfacct(info.sized(40)?),
        (b"recent", 1) => recent(family, info.sized(232)?),
        (b"statistic", 0) => statistic(info.sized(24)?),
        _ => None,
    }
}

/// Decodes a target.
pub(in crate::netlink::nft) fn a_target(family: Family, table: Table, data: &[u8]) -> Option<Target> {
    let (name, revision, info) = extension(data)?;
    match (name, revision) {
        (b"MARK", 2) => {
            let info = info.sized(8)?;
            Some(Target::SetXmark { value: info.u32(0)?, mask: info.u32(4)? })
        }
        (b"REJECT", 0) if table == Table::Filter => reject(family, info.sized(8)?),
        (b"MASQUERADE", 0) if table == Table::Nat => masquerade(family, info),
        (b"DNAT", 2) if table == Table::Nat => dnat(family, info.sized(48)?),
        _ => None,
    }
}

/// Returns the match for a destination port, or for a range of a dispatch tree.
pub(in crate::netlink::nft) fn match_ports(protocol: Protocol, low: u16, high: u16) -> Option<Match> {
    if low == high {
        return Some(Match::Port { protocol, destination: Some(low) });
    }
    is_branch(low, high).then_some(Match::PortRange { protocol, low, high })
}

/// `char[256]`
fn comment(info: Info<'_>) -> Option<Match> {
    let text = info.text(0, 256)?;
    let comment = Comment::new(&[text]);
    // Sanitising could turn a foreign comment into one of ferrule's.
    (comment.as_str() == text).then_some(Match::Comment(comment))
}

/// `struct xt_tcp`: ports as ranges, then TCP options and flags, then what is inverted.
fn tcp(info: Info<'_>) -> Option<Match> {
    info.empty(8, 4)?;
    port_ranges(Protocol::Tcp, info)
}

/// `struct xt_udp`: the same without options and flags.
fn udp(info: Info<'_>) -> Option<Match> {
    info.empty(8, 1)?;
    port_ranges(Protocol::Udp, info)
}

fn port_ranges(protocol: Protocol, info: Info<'_>) -> Option<Match> {
    (info.u16(0)? == 0 && info.u16(2)? == u16::MAX).then_some(())?;
    match (info.u16(4)?, info.u16(6)?) {
        (0, u16::MAX) => Some(Match::Port { protocol, destination: None }),
        (low, high) => match_ports(protocol, low, high),
    }
}

/// `struct xt_sctp_info`: destination and source ports, chunk types, which of them count, which are inverted.
fn sctp(info: Info<'_>) -> Option<Match> {
    const DESTINATION_PORTS: u32 = 2;
    let protocol = Protocol::Sctp;
    (info.u32(288)? == 0).then_some(())?;
    match info.u32(284)? {
        0 => Some(Match::Port { protocol, destination: None }),
        DESTINATION_PORTS => match_ports(protocol, info.u16(0)?, info.u16(2)?),
        _ => None,
    }
}

/// `struct xt_addrtype_info_v1`: sets of types for either end, then flags.
fn addrtype(info: Info<'_>) -> Option<Match> {
    const LOCAL: u16 = 1 << 2;
    match (info.u16(0)?, info.u16(2)?, info.u32(4)?) {
        (LOCAL, 0, 0) => Some(Match::LocalAddress(Side::Source)),
        (0, LOCAL, 0) => Some(Match::LocalAddress(Side::Destination)),
        _ => None,
    }
}

/// `struct xt_conntrack_mtinfo3`, of which only the states are supported.
fn conntrack(info: Info<'_>) -> Option<Match> {
    const STATE: u16 = 1;
    (info.u16(146)? == STATE).then_some(())?;
    let negated = match info.u16(148)? {
        0 => false,
        STATE => true,
        _ => return None,
    };
    let value = CtState::of_bits(info.u16(150)?)?;
    Some(Match::Conntrack(Negatable { negated, value }))
}

/// `struct xt_mark_mtinfo1`
fn mark(info: Info<'_>) -> Option<Match> {
    let negated = match info.u8(8)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(Match::Mark { negated, value: info.u32(0)?, mask: info.u32(4)? })
}

/// `struct xt_nfacct_match_info` and its `_v1`: a name, then the kernel's pointer, which reads as zeros.
fn nfacct(info: Info<'_>) -> Option<Match> {
    Counter::parse(info.text(0, 32)?).map(Match::Nfacct)
}

/// `struct xt_recent_mtinfo_v1`: seconds, hits, what to do, inverted, list, side, mask.
fn recent(family: Family, info: Info<'_>) -> Option<Match> {
    const CHECK: u8 = 1;
    const SET: u8 = 2;
    const REAP: u8 = 32;
    const CHECK_AND_REAP: u8 = CHECK | REAP;
    let list = ChainId::parse(Table::Nat, info.text(10, 200)?.as_bytes())?;
    let whole = info.bytes(212, usize::from(family.host_bits() / 8))?.iter().all(|&b| b == 0xff);
    (whole && info.u32(4)? == 0 && info.u8(9)? == 0 && info.u8(210)? == 0).then_some(())?;
    match (info.u8(8)?, info.u32(0)?) {
        (SET, 0) => Some(Match::RecentSet { list }),
        (CHECK_AND_REAP, seconds) => Some(Match::RecentCheck { list, seconds }),
        _ => None,
    }
}

/// `struct xt_statistic_info`: mode, flags, and for the random mode a probability in units of 2⁻³¹.
fn statistic(info: Info<'_>) -> Option<Match> {
    (info.u32(0)? == 0).then_some(())?;
    Some(Match::Statistic(Probability(info.u32(4).filter(|&p| p <= 1 << 31)?)))
}

/// `struct ipt_reject_info`, `struct ip6t_reject_info`
fn reject(family: Family, info: Info<'_>) -> Option<Target> {
    let port_unreachable = match family {
        Family::V4 => 3,
        Family::V6 => 4,
    };
    (info.u32(0)? == port_unreachable).then_some(Target::Reject)
}

/// `struct nf_nat_ipv4_multi_range_compat` with one range, `struct nf_nat_range`.
fn masquerade(family: Family, info: Info<'_>) -> Option<Target> {
    const RANDOM_FULLY: u32 = 1 << 4;
    let flags = match family {
        Family::V4 => {
            let info = info.sized(24)?;
            (info.u32(0)? == 1).then_some(())?;
            info.empty(8, 16)?;
            info.u32(4)?
        }
        Family::V6 => {
            let info = info.sized(40)?;
            info.empty(4, 36)?;
            info.u32(0)?
        }
    };
    match flags {
        0 => Some(Target::Masquerade { random_fully: false }),
        RANDOM_FULLY => Some(Target::Masquerade { random_fully: true }),
        _ => None,
    }
}

/// `struct nf_nat_range2`: flags, minimum and maximum address, minimum and maximum port, a base for shifted ports.
fn dnat(family: Family, info: Info<'_>) -> Option<Target> {
    const ADDRESS_AND_PORT: u32 = 3;
    let (address, port) = (info.address(family, 4)?, info.be16(36)?);
    let one = info.address(family, 20)? == address && info.be16(38)? == port;
    info.empty(40, 2)?;
    (one && info.u32(0)? == ADDRESS_AND_PORT).then_some(Target::Dnat(SocketAddr::new(address, port)))
}
