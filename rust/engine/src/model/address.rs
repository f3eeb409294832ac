//! Addresses and networks as parsed types, printed canonically.
//!
//! Text is never passed through: iptables reads a leading zero as octal (`010.1.1.1` becomes 8.1.1.1), and a blank
//! inside a range breaks the whole restore. Every address in a rule is parsed first.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family. Each node has one rule set per family; everything downstream of the store exists once per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// iptables.
    V4,
    /// ip6tables.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family an address belongs to.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `ipv4` or `ipv6`, the `ip_family` word of the API and of every report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// Prefix length of a single host.
    #[must_use]
    pub const fn host_bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// Why a text cannot be used as an address in a rule. The problem that carries this error holds the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// Not an IP address at all.
    NotAnAddress,
    /// No `/length`, or one that is out of range.
    NotANetwork,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnAddress => "is not an IP address",
            Self::NotANetwork => "is not a CIDR (address/prefix length)",
        })
    }
}

/// Parses an address as the `ParseIPSloppy` of Kubernetes does, so that an object means here what it means to kube-proxy:
/// leading zeros are decimal, not octal, and an IPv4-mapped IPv6 address is its IPv4 address.
///
/// # Errors
/// [`AddressError::NotAnAddress`].
pub fn parse_ip(text: &str) -> Result<IpAddr, AddressError> {
    Ok(parse_as_written(text)?.to_canonical())
}

/// Parses an address; an IPv4-mapped one stays an IPv6 address, because a prefix length counts its bits.
fn parse_as_written(text: &str) -> Result<IpAddr, AddressError> {
    if let Some(v4) = parse_v4(text) {
        return Ok(IpAddr::V4(v4));
    }
    let v6 = text.parse().or_else(|_| without_leading_zeros(text).parse::<Ipv6Addr>());
    v6.map(IpAddr::V6).map_err(|_| AddressError::NotAnAddress)
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// Parses digits only: `str::parse` takes a sign as well.
fn decimal(text: &str) -> Option<u8> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Removes leading zeros of each number, which the standard library refuses beyond four digits of a group and in the
/// dotted end of an IPv6 address.
fn without_leading_zeros(text: &str) -> String {
    let mut in_number = false;
    let significant = |(i, c): &(usize, char)| {
        let next = text.as_bytes().get(i + 1);
        let leading = *c == '0' && !in_number && next.is_some_and(u8::is_ascii_hexdigit);
        in_number = c.is_ascii_hexdigit() && !leading;
        !leading
    };
    text.char_indices().filter(significant).map(|(_, c)| c).collect()
}

/// A network with no host bits set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    addr: IpAddr,
    len: u8,
}

impl Net {
    /// The network that `addr` lies in; host bits are cleared, as the kernel would.
    #[must_use]
    pub fn new(addr: IpAddr, len: u8) -> Self {
        let addr = match addr {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask32(len))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask128(len))),
        };
        Self { addr, len }
    }

    /// The network of exactly one host.
    #[must_use]
    pub const fn host(addr: IpAddr) -> Self {
        let len = Family::of(addr).host_bits();
        Self { addr, len }
    }

    /// Parses `address/length` as the `ParseCIDRSloppy` of Kubernetes does, after trimming (users put blanks into source
    /// ranges). An IPv4-mapped network is the IPv4 network of its last 32 bits; with a length below 96 it holds more than
    /// mapped addresses and stays an IPv6 network.
    ///
    /// # Errors
    /// [`AddressError::NotANetwork`], or the error of the address part.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (addr, len) = text.trim().split_once('/').ok_or(AddressError::NotANetwork)?;
        let addr = parse_as_written(addr)?;
        let len = decimal(len).filter(|&len| len <= Family::of(addr).host_bits()).ok_or(AddressError::NotANetwork)?;
        let net = Self::new(addr, len);
        Ok(match net.addr.to_canonical() {
            IpAddr::V4(v4) if net.family() == Family::V6 => Self::new(IpAddr::V4(v4), len - 96),
            _ => net,
        })
    }

    /// Returns whether the network contains `ip`.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family() && Self::new(ip, self.len) == *self
    }

    /// Its family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.addr)
    }

    /// The prefix length.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.len
    }

    /// The first address.
    #[must_use]
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// A single address.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        self.len == self.family().host_bits()
    }

    /// `/0`: matches everything.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

fn mask32(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
}

fn mask128(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal() {
        assert_eq!(parse_ip("010.001.1.09").unwrap().to_string(), "10.1.1.9");
    }

    #[test]
    fn texts_that_are_not_an_address_are_reported() {
        for bad in [
            "",
            " 10.0.0.1",
            "10.0.0",
            "10.0.0.1.2",
            "10.0.0.256",
            "10.0.0.-1",
            "0x0a.0.0.1",
            "a::b::c",
            "::1%lo",
            "1.2.3.4\n",
        ] {
            assert_eq!(parse_ip(bad), Err(AddressError::NotAnAddress), "{bad:?}");
        }
    }

    #[test]
    fn ipv6_is_printed_in_its_shortest_form() {
        assert_eq!(parse_ip("FD00:0:0:0:0:0:0:01").unwrap().to_string(), "fd00::1");
    }

    #[test]
    fn networks_lose_their_host_bits_and_blanks() {
        assert_eq!(Net::parse(" 10.1.2.3/8 ").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(Net::parse("fd00:1::5/32").unwrap().to_string(), "fd00:1::/32");
        assert_eq!(Net::parse("10.0.0.1/32").unwrap(), Net::host(parse_ip("10.0.0.1").unwrap()));
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "fd00::/129",
            "/8",
            "10.0.0.0/ 8",
            "10.0.0.0/+8",
        ] {
            assert!(Net::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn containment_stays_within_a_family() {
        let all4 = Net::parse("0.0.0.0/0").unwrap();
        assert!(all4.contains(parse_ip("255.1.2.3").unwrap()));
        assert!(!all4.contains(parse_ip("::1").unwrap()));
        assert!(Net::parse("::/0").unwrap().contains(parse_ip("ff::1").unwrap()));
        assert!(!Net::parse("10.0.0.0/25").unwrap().contains(parse_ip("10.0.0.128").unwrap()));
    }
}
