//! One iptables rule as a typed value.
//!
//! The types prevent injected text: every text in a rule is a parsed address, a number, a chain name from [`ChainId`],
//! an [`Interface`], or a [`Comment`].

use std::net::SocketAddr;

use crate::model::address::Net;
use crate::model::interface::Interface;
use crate::model::names::{ChainId, Protocol};
use crate::rules::matches::{Comment, Match, Negatable};

/// What happens to a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the iptables target of its name
pub enum Target {
    Jump(ChainId),
    /// A jump to `KUBE-FIREWALL`, which kubelet and ferrule share.
    JumpFirewall,
    Accept,
    Drop,
    Return,
    Reject,
    SetXmark {
        value: u32,
        mask: u32,
    },
    Masquerade {
        random_fully: bool,
    },
    Dnat(SocketAddr),
}

/// One rule: header fields, then matches in the order of evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // fields are iptables' own options
pub struct Rule {
    pub source: Option<Negatable<Net>>,
    pub destination: Option<Negatable<Net>>,
    pub in_interface: Option<Negatable<Interface>>,
    pub protocol: Option<Protocol>,
    pub matches: Vec<Match>,
    pub target: Option<Target>,
}

impl Rule {
    /// Returns a rule that starts with a comment, as most of ferrule's rules do.
    #[must_use]
    pub fn commented(comment: Comment) -> Self {
        let mut matches = Vec::with_capacity(3);
        matches.push(Match::Comment(comment));
        Self { matches, ..Self::default() }
    }

    /// Matches a source inside (or, negated, outside) a network. `/0` matches everything and is omitted, as the kernel
    /// does.
    #[must_use]
    pub fn from(mut self, net: Negatable<Net>) -> Self {
        self.source = Some(net).filter(|n| n.negated || !n.value.is_everything());
        self
    }

    /// Matches a destination inside (or, negated, outside) a network.
    #[must_use]
    pub fn to(mut self, net: Negatable<Net>) -> Self {
        self.destination = Some(net).filter(|n| n.negated || !n.value.is_everything());
        self
    }

    /// Matches the input interface.
    #[must_use]
    pub fn through(mut self, interface: Negatable<Interface>) -> Self {
        self.in_interface = Some(interface);
        self
    }

    /// Matches the protocol and, unless `None`, the destination port.
    #[must_use]
    pub fn port(mut self, protocol: Protocol, destination: Option<u16>) -> Self {
        self.protocol = Some(protocol);
        self.with(Match::Port { protocol, destination })
    }

    /// Adds a match.
    #[must_use]
    pub fn with(mut self, m: Match) -> Self {
        self.matches.push(m);
        self
    }

    /// Sets a jump to one of ferrule's chains as the target.
    #[must_use]
    pub fn jump(self, chain: ChainId) -> Self {
        self.target(Target::Jump(chain))
    }

    /// Sets the target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }
}
