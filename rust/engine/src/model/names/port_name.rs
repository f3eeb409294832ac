//! Service ports: their protocol and identity.

use std::sync::Arc;

use super::NameHash;

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All three.
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Returns the protocol number of IP headers.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Returns the lower-case name used by iptables and in chain hashes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Parses the API's upper-case name; an absent value means TCP.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "TCP" | "" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// Identity of a service port: `ns/name:port` (or `ns/name`) and the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName {
    name: Arc<str>,
    protocol: Protocol,
}

impl PortName {
    /// Builds the name of a service port. `service` is `ns/name`; an empty port name adds no colon.
    #[must_use]
    pub fn new(service: &str, port: &str, protocol: Protocol) -> Self {
        let name = if port.is_empty() { Arc::from(service) } else { Arc::from([service, ":", port].concat()) };
        Self { name, protocol }
    }

    /// `ns/name:port`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns the hash in the names of this port's SVC, SVL, FW and EXT chains.
    #[must_use]
    pub fn hash(&self) -> NameHash {
        NameHash::of(&[&self.name, self.protocol.name()])
    }

    /// Returns the hash in the name of one endpoint's chain; `endpoint` is `ip:port`, IPv6 in brackets.
    #[must_use]
    pub fn endpoint_hash(&self, endpoint: &str) -> NameHash {
        NameHash::of(&[&self.name, self.protocol.name(), endpoint])
    }
}
