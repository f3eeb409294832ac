//! Match extensions of iptables as typed values, with the parameters that ferrule's rules use.

use crate::model::names::{ChainId, Protocol};
use crate::rules::probability::Probability;

/// A comment that is safe to quote: characters from an allow-list, `_` for all others, at most 255 bytes (the limit of
/// the kernel's comment match; iptables silently truncates longer ones).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment(String);

/// The maximum length of a [`Comment`], in bytes.
pub const COMMENT_LIMIT: usize = 255;

const fn harmless(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
        || matches!(byte, b' ' | b'.' | b'_' | b':' | b'/' | b'%' | b'-' | b',' | b';' | b'>' | b'[' | b']')
}

impl Comment {
    /// Joins the parts and replaces characters that are not allowed.
    #[must_use]
    pub fn new(parts: &[&str]) -> Self {
        let mut text = String::with_capacity(parts.iter().map(|p| p.len()).sum());
        if text.capacity() <= COMMENT_LIMIT && parts.iter().all(|p| p.bytes().all(harmless)) {
            text.extend(parts.iter().copied());
            return Self(text);
        }
        for c in parts.iter().flat_map(|p| p.chars()) {
            if text.len() == COMMENT_LIMIT {
                break;
            }
            text.push(if u8::try_from(c).is_ok_and(harmless) { c } else { '_' });
        }
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A match that can be negated with `!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negatable<T> {
    /// Whether the match is negated.
    pub negated: bool,
    /// The value that is compared.
    pub value: T,
}

impl<T> Negatable<T> {
    /// Returns the match without `!`.
    pub const fn is(value: T) -> Self {
        Self { negated: false, value }
    }

    /// Returns the match with `!`.
    pub const fn not(value: T) -> Self {
        Self { negated: true, value }
    }
}

/// The address that `addrtype` matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `--src-type LOCAL`
    Source,
    /// `--dst-type LOCAL`
    Destination,
}

/// Sets of conntrack states that ferrule's rules match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtState {
    /// Packets that conntrack cannot assign to a flow.
    Invalid,
    /// First packets of flows.
    New,
    /// Packets of known flows.
    RelatedEstablished,
    /// Packets of known flows, and packets with a rewritten destination.
    RelatedEstablishedDnat,
}

impl CtState {
    const ALL: [Self; 4] = [Self::Invalid, Self::New, Self::RelatedEstablished, Self::RelatedEstablishedDnat];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::New => "NEW",
            Self::RelatedEstablished => "RELATED,ESTABLISHED",
            Self::RelatedEstablishedDnat => "RELATED,ESTABLISHED,DNAT",
        }
    }

    /// Returns the set as the kernel's bits (`XT_CONNTRACK_STATE_*`).
    pub(crate) const fn bits(self) -> u16 {
        const INVALID: u16 = 1;
        const ESTABLISHED: u16 = 1 << 1;
        const RELATED: u16 = 1 << 2;
        const NEW: u16 = 1 << 3;
        const DNAT: u16 = 1 << 7;
        match self {
            Self::Invalid => INVALID,
            Self::New => NEW,
            Self::RelatedEstablished => RELATED | ESTABLISHED,
            Self::RelatedEstablishedDnat => RELATED | ESTABLISHED | DNAT,
        }
    }

    pub(crate) fn of_bits(bits: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.bits() == bits)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.text() == text)
    }
}

/// Counter objects of the nfacct subsystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `ct_state_invalid_dropped_pkts`
    InvalidDropped,
    /// `localhost_nps_accepted_pkts`
    LocalhostAccepted,
}

impl Counter {
    const ALL: [Self; 2] = [Self::InvalidDropped, Self::LocalhostAccepted];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::InvalidDropped => "ct_state_invalid_dropped_pkts",
            Self::LocalhostAccepted => "localhost_nps_accepted_pkts",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.text() == text)
    }
}

/// An extension match.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the iptables match of its name
pub enum Match {
    Comment(Comment),
    LocalAddress(Side),
    /// `-m tcp [--dport N]`: the protocol's own match, present wherever kube-proxy writes `-m tcp`.
    Port {
        protocol: Protocol,
        destination: Option<u16>,
    },
    /// `-m tcp --dport LOW:HIGH`, LOW below HIGH.
    PortRange {
        protocol: Protocol,
        low: u16,
        high: u16,
    },
    Conntrack(Negatable<CtState>),
    Mark {
        negated: bool,
        value: u32,
        mask: u32,
    },
    Nfacct(Counter),
    RecentCheck {
        list: ChainId,
        seconds: u32,
    },
    RecentSet {
        list: ChainId,
    },
    Statistic(Probability),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_cannot_leave_their_quotes() {
        let comment = Comment::new(&["a\"b\n-A INPUT -j ACCEPT\n\"", "\\", "é"]);
        assert_eq!(comment.as_str(), "a_b_-A INPUT -j ACCEPT____");
        assert_eq!(Comment::new(&[&"x".repeat(400)]).as_str().len(), COMMENT_LIMIT);
    }
}
