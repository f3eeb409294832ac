//! Dispatch keys, encoded as nibble strings. A prefix of a key is a match and the name of a chain.
//!
//! ```text
//! address    0  aaaaaaaa  t  pppp      kind, address (8 nibbles, 32 in IPv6), protocol, port
//! node port  1            t  pppp
//! ```
//!
//! A prefix that ends inside the address matches a network (`-d 10.96.16.0/20`), one that ends inside the port a range
//! (`-p tcp -m tcp --dport 30000:30015`). iptables can match both.

use std::net::IpAddr;

use crate::model::address::{Family, Net};
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, Protocol};
use crate::rules::matches::{Match, Negatable, Side};
use crate::rules::rule::Rule;

/// Number of nibbles of a port with its protocol.
const PORT: u8 = 5;

impl Claim {
    /// Returns the dispatch key of a rule: address, protocol and port, or a port on any local address.
    pub(crate) fn of_rule(rule: &Rule) -> Option<Self> {
        let (protocol, port) = rule.matches.iter().find_map(|m| match m {
            Match::Port { protocol, destination: Some(port) } => Some((*protocol, *port)),
            _ => None,
        })?;
        let host = rule.destination.as_ref().filter(|d| !d.negated && d.value.is_host());
        // 127.0.0.0/8 is included in "any local address": both rules of a node port have the same key.
        Some(host.map_or(Self::NodePort(protocol, port), |d| Self::Address(d.value.addr(), protocol, port)))
    }

    const fn protocol_and_port(self) -> (Protocol, u16) {
        match self {
            Self::Address(_, protocol, port) | Self::NodePort(protocol, port) => (protocol, port),
        }
    }

    /// Returns the number of nibbles of the address.
    const fn address_nibbles(self) -> u8 {
        match self {
            Self::Address(ip, ..) => Family::of(ip).host_bits() / 4,
            Self::NodePort(..) => 0,
        }
    }

    /// Returns the number of nibbles.
    pub(crate) const fn nibbles(self) -> u8 {
        1 + self.address_nibbles() + PORT
    }

    /// Returns one nibble; zero beyond the end. Keys are ordered as their nibbles.
    pub(crate) fn nibble(self, at: u8) -> u8 {
        let (protocol, port) = self.protocol_and_port();
        let address = self.address_nibbles();
        if at == 0 {
            return u8::from(matches!(self, Self::NodePort(..)));
        }
        match (self, at - 1) {
            (Self::Address(ip, ..), i) if i < address => {
                let byte = match ip {
                    IpAddr::V4(ip) => ip.octets()[usize::from(i / 2)],
                    IpAddr::V6(ip) => ip.octets()[usize::from(i / 2)],
                };
                if i % 2 == 0 { byte >> 4 } else { byte & 15 }
            }
            (_, i) => match i - address {
                0 => protocol as u8,
                n @ 1..PORT => u8::try_from(port >> (4 * (PORT - 1 - n)) & 15).unwrap_or(0),
                _ => 0,
            },
        }
    }

    /// Returns the length of the longest common prefix, in nibbles.
    pub(crate) fn common(self, other: Self) -> u8 {
        let end = self.nibbles().min(other.nibbles());
        (0..end).find(|&at| self.nibble(at) != other.nibble(at)).unwrap_or(end)
    }
}

/// The first `len` nibbles of a key; the rest of the key is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyPrefix {
    pub(crate) key: Claim,
    pub(crate) len: u8,
}

impl KeyPrefix {
    /// Returns a rule of this dispatch chain that matches every key with this prefix; it has no target.
    pub(crate) fn condition(self, chain: FixedChain) -> Rule {
        let mut rule = Rule::default();
        if let Claim::Address(ip, ..) = self.key {
            let bits = 4 * self.len.saturating_sub(1).min(self.key.address_nibbles());
            rule = rule.to(Negatable::is(Net::new(ip, bits)));
        } else if chain == FixedChain::ExternalServices && self.len == 1 {
            // This chain has rules for addresses, too: packets to other nodes skip the node ports.
            rule = rule.with(Match::LocalAddress(Side::Destination));
        }
        let (protocol, port) = self.key.protocol_and_port();
        match self.len.saturating_sub(1 + self.key.address_nibbles()) {
            0 => rule,
            1 => {
                rule.protocol = Some(protocol);
                rule
            }
            PORT => rule.port(protocol, Some(port)),
            nibbles => {
                let free = u16::MAX >> (4 * (nibbles - 1));
                rule.protocol = Some(protocol);
                rule.with(Match::PortRange { protocol, low: port & !free, high: port | free })
            }
        }
    }

    /// Returns the chain that holds the rules with this prefix.
    pub(crate) fn chain(self, family: Family, of: FixedChain) -> ChainId {
        let mut text = Vec::with_capacity(64);
        self.condition(of).write_to(family, &mut text);
        ChainId::dispatch_tree(of, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str, protocol: Protocol, port: u16) -> Claim {
        Claim::Address(crate::model::address::parse_ip(ip).unwrap(), protocol, port)
    }

    fn text(key: Claim, len: u8, chain: FixedChain) -> String {
        let mut out = Vec::new();
        KeyPrefix { key, len }.condition(chain).write_to(Family::V4, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn prefixes_are_networks_protocols_and_port_ranges() {
        let key = address("10.96.31.7", Protocol::Udp, 0x7531);
        let expected = [
            (0, ""),
            (1, ""),
            (2, " -d 0.0.0.0/4"),
            (4, " -d 10.96.0.0/12"),
            (6, " -d 10.96.16.0/20"),
            (9, " -d 10.96.31.7/32"),
            (10, " -d 10.96.31.7/32 -p udp"),
            (11, " -d 10.96.31.7/32 -p udp -m udp --dport 28672:32767"),
            (13, " -d 10.96.31.7/32 -p udp -m udp --dport 30000:30015"),
            (14, " -d 10.96.31.7/32 -p udp -m udp --dport 30001"),
        ];
        for (len, want) in expected {
            assert_eq!(text(key, len, FixedChain::NatServices), want, "{len}");
        }
        let key = Claim::NodePort(Protocol::Tcp, 30001);
        let expected =
            [(1, ""), (2, " -p tcp"), (3, " -p tcp -m tcp --dport 28672:32767"), (6, " -p tcp -m tcp --dport 30001")];
        for (len, want) in expected {
            assert_eq!(text(key, len, FixedChain::NatNodePorts), want, "{len}");
        }
        assert_eq!(text(key, 1, FixedChain::ExternalServices), " -m addrtype --dst-type LOCAL");
        let v6 = address("fd00:96::1f", Protocol::Tcp, 80);
        let mut out = Vec::new();
        KeyPrefix { key: v6, len: 29 }.condition(FixedChain::NatServices).write_to(Family::V6, &mut out);
        assert_eq!(out, b" -d fd00:96::/112");
    }

    #[test]
    fn keys_are_ordered_as_their_nibbles() {
        let mut keys: Vec<Claim> = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            for port in [0, 1, 255, 256, 65535] {
                keys.push(Claim::NodePort(protocol, port));
                keys.extend(
                    ["0.0.0.1", "10.0.0.1", "10.0.0.16", "10.1.0.0", "255.0.0.0"].map(|ip| address(ip, protocol, port)),
                );
            }
        }
        let nibbles = |key: &Claim| (0..key.nibbles()).map(|at| key.nibble(at)).collect::<Vec<_>>();
        let mut by_nibbles = keys.clone();
        keys.sort_unstable();
        by_nibbles.sort_by_key(nibbles);
        assert_eq!(keys, by_nibbles);
        for pair in keys.windows(2) {
            let same = nibbles(&pair[0]).iter().zip(nibbles(&pair[1])).take_while(|(a, b)| **a == *b).count();
            assert_eq!(usize::from(pair[0].common(pair[1])), same);
        }
    }
}
