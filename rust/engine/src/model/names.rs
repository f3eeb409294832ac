//! Names of service ports and of the chains derived from them, in kube-proxy's scheme, so that each program recognises
//! the other's chains.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

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

/// The 80 bits of SHA-256 that a chain name carries: 16 base32 characters are exactly 10 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameHash([u8; 10]);

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

impl NameHash {
    fn of(parts: &[&str]) -> Self {
        Self::of_bytes(parts.iter().map(|part| part.as_bytes()))
    }

    fn of_bytes<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut sha = Sha256::new();
        parts.for_each(|part| sha.update(part));
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&sha.finalize()[..10]);
        Self(bytes)
    }

    fn to_base32(self) -> [u8; 16] {
        let mut out = [0; 16];
        for (half, five) in self.0.chunks_exact(5).enumerate() {
            let bits = five.iter().fold(0u64, |acc, &b| acc << 8 | u64::from(b));
            for i in 0..8 {
                let digit = bits >> (35 - 5 * i) & 31;
                out[half * 8 + i] = BASE32[usize::try_from(digit).unwrap_or(0)];
            }
        }
        out
    }

    /// Clears the last digit, for names whose longer prefix leaves room for fifteen.
    fn short(mut self) -> Self {
        self.0[9] &= 0b1110_0000;
        self
    }

    fn from_short(text: &[u8]) -> Option<Self> {
        Self::from_base32(&[text, b"A"].concat())
    }

    fn from_base32(text: &[u8]) -> Option<Self> {
        if text.len() != 16 {
            return None;
        }
        let mut bytes = [0; 10];
        for (half, eight) in text.chunks_exact(8).enumerate() {
            let mut bits = 0u64;
            for &c in eight {
                let digit = match c {
                    b'A'..=b'Z' => c - b'A',
                    b'2'..=b'7' => c - b'2' + 26,
                    _ => return None,
                };
                bits = bits << 5 | u64::from(digit);
            }
            bytes[half * 5..half * 5 + 5].copy_from_slice(&bits.to_be_bytes()[3..]);
        }
        Some(Self(bytes))
    }

    /// Returns the nibble at an index, most significant first.
    pub(crate) const fn nibble(self, at: usize) -> u8 {
        if at.is_multiple_of(2) { self.0[at / 2] >> 4 } else { self.0[at / 2] & 15 }
    }
}

/// The iptables tables that ferrule writes, in writing order: filter first, so that an obsolete REJECT is removed
/// before nat forwards the traffic, as in kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// filter
    Filter,
    /// nat
    Nat,
    /// mangle (the canary only)
    Mangle,
}

impl Table {
    /// All three, in writing order.
    pub const ALL: [Self; 3] = [Self::Filter, Self::Nat, Self::Mangle];

    /// Returns the table's name in iptables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Mangle => "mangle",
        }
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name().as_bytes() == text)
    }
}

macro_rules! fixed_chains {
    ($($(#[$doc:meta])* $variant:ident = $table:ident $name:literal,)*) => {
        /// Chains with a fixed name, each in exactly one table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FixedChain { $($(#[$doc])* $variant,)* }

        impl FixedChain {
            /// All fixed chains.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the chain's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the chain's table.
            #[must_use]
            pub const fn table(self) -> Table {
                match self { $(Self::$variant => Table::$table,)* }
            }
        }
    };
}

fixed_chains! {
    /// Dispatch by cluster, external and load-balancer IP; the node port jump is its last rule.
    NatServices = Nat "KUBE-SERVICES",
    /// Dispatch by node port.
    NatNodePorts = Nat "KUBE-NODEPORTS",
    /// Masquerades packets that carry the mark.
    Postrouting = Nat "KUBE-POSTROUTING",
    /// Sets the mark.
    MarkMasq = Nat "KUBE-MARK-MASQ",
    /// Canary whose absence shows that nat was flushed.
    NatCanary = Nat "KUBE-PROXY-CANARY",
    /// REJECT or DROP of cluster IPs without endpoints.
    FilterServices = Filter "KUBE-SERVICES",
    /// REJECT or DROP of external addresses and node ports without endpoints.
    ExternalServices = Filter "KUBE-EXTERNAL-SERVICES",
    /// Accepts health check node ports.
    FilterNodePorts = Filter "KUBE-NODEPORTS",
    /// Accepts forwarded Service traffic.
    Forward = Filter "KUBE-FORWARD",
    /// DROP of traffic that loadBalancerSourceRanges does not allow.
    ProxyFirewall = Filter "KUBE-PROXY-FIREWALL",
    /// Canary whose absence shows that filter was flushed.
    FilterCanary = Filter "KUBE-PROXY-CANARY",
    /// Canary whose absence shows that mangle was flushed.
    MangleCanary = Mangle "KUBE-PROXY-CANARY",
}

impl FixedChain {
    /// Returns whether each rule of the chain belongs to one service port, so that the order of rules of different
    /// ports does not matter (kube-proxy itself writes them in random order).
    pub(crate) const fn is_dispatch(self) -> bool {
        matches!(
            self,
            Self::NatServices
                | Self::NatNodePorts
                | Self::FilterServices
                | Self::ExternalServices
                | Self::FilterNodePorts
                | Self::ProxyFirewall
        )
    }
}

/// Prefixes of chains that are named by a hash; all are in nat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefix {
    /// One endpoint: hairpin masquerade, DNAT.
    Sep,
    /// Balances over the cluster endpoints.
    Svc,
    /// Balances over the local endpoints.
    Svl,
    /// Traffic from outside.
    Ext,
    /// Load-balancer source ranges.
    Fw,
}

impl Prefix {
    const ALL: [Self; 5] = [Self::Sep, Self::Svc, Self::Svl, Self::Ext, Self::Fw];

    const fn text(self) -> &'static str {
        match self {
            Self::Sep => "KUBE-SEP-",
            Self::Svc => "KUBE-SVC-",
            Self::Svl => "KUBE-SVL-",
            Self::Ext => "KUBE-EXT-",
            Self::Fw => "KUBE-FW-",
        }
    }
}

/// A chain that belongs to ferrule. Its name is always generated here, so input text cannot become a chain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChainId {
    /// Named by its purpose.
    Fixed(FixedChain),
    /// Named by a hash.
    Hashed(Prefix, NameHash),
    /// A chain of a dispatch tree: `KUBE-SVC-DSP-` and fifteen digits of a hash.
    Dispatch(Table, NameHash),
    /// A chain of a balancing tree (nat): `KUBE-SVC-BAL-`, a letter for its level, 14 characters of a hash.
    Balance(NameHash),
}

/// The maximum length of a chain name in the kernel, in bytes.
pub(crate) const NAME_LIMIT: usize = 28;

/// The prefix of dispatch tree chains. It starts like the prefix of Service chains, so that kube-proxy empties and
/// deletes these chains when it takes over, as it does with any such chain that it does not know. With a different
/// prefix they would stay and still jump to Service chains, the kernel would refuse to delete those, and kube-proxy's
/// sync would fail at the first deleted Service.
const DISPATCH: &str = "KUBE-SVC-DSP-";

/// The prefix of balancing tree chains, chosen for the same reason as [`DISPATCH`].
const BALANCE: &str = "KUBE-SVC-BAL-";

/// The number of levels that the name of a balancing tree chain can tell apart: it has five bits for the level.
pub(crate) const BALANCE_LEVELS: u8 = 1 << 5;

impl ChainId {
    /// Returns the dispatch tree chain for packets that match `condition` (a rule without its target).
    pub(crate) fn dispatch_tree(root: FixedChain, condition: &[u8]) -> Self {
        let parts = [root.name().as_bytes(), condition];
        Self::Dispatch(root.table(), NameHash::of_bytes(parts.into_iter()).short())
    }

    /// Returns the balancing tree chain for endpoints whose hashes begin with the nibbles of `prefix`. The first
    /// character of its hash is the level, so that names alone show which chain can jump to which.
    pub(crate) fn balance(root: Self, prefix: &[u8]) -> Self {
        let name = root.name();
        let NameHash(mut bytes) = NameHash::of_bytes([name.as_bytes(), prefix].into_iter()).short();
        let level = u8::try_from(prefix.len()).ok().filter(|&level| level < BALANCE_LEVELS);
        // A wrong level would be read back as another one. Balancing checks its depth when it is compiled.
        let level = level.expect("a balancing tree has fewer levels than a name can tell apart");
        bytes[0] = level << 3 | bytes[0] & 0b111;
        Self::Balance(NameHash(bytes))
    }

    /// Returns the number of jumps from the root of the balancing tree to this chain.
    pub(crate) const fn balance_level(hash: NameHash) -> u8 {
        hash.0[0] >> 3
    }

    /// Returns the chain's table.
    #[must_use]
    pub const fn table(self) -> Table {
        match self {
            Self::Fixed(chain) => chain.table(),
            Self::Hashed(..) | Self::Balance(_) => Table::Nat,
            Self::Dispatch(table, _) => table,
        }
    }

    /// Recognises a chain by table and name. Returns `None` for a foreign chain.
    #[must_use]
    pub fn parse(table: Table, name: &[u8]) -> Option<Self> {
        if let Some(&fixed) = FixedChain::ALL.iter().find(|c| c.table() == table && c.name().as_bytes() == name) {
            return Some(Self::Fixed(fixed));
        }
        if let Some(hash) = name.strip_prefix(DISPATCH.as_bytes()) {
            return Some(Self::Dispatch(table, NameHash::from_short(hash)?)).filter(|_| table != Table::Mangle);
        }
        if table != Table::Nat {
            return None;
        }
        if let Some(hash) = name.strip_prefix(BALANCE.as_bytes()) {
            return NameHash::from_short(hash).map(Self::Balance);
        }
        Prefix::ALL.into_iter().find_map(|prefix| {
            let hash = name.strip_prefix(prefix.text().as_bytes())?;
            Some(Self::Hashed(prefix, NameHash::from_base32(hash)?))
        })
    }

    /// Returns the components of the name: its prefix, and a hash with the number of its digits in use.
    const fn spelling(self) -> (&'static str, Option<(NameHash, usize)>) {
        match self {
            Self::Fixed(chain) => (chain.name(), None),
            Self::Hashed(prefix, hash) => (prefix.text(), Some((hash, 16))),
            Self::Dispatch(_, hash) => (DISPATCH, Some((hash, 15))),
            Self::Balance(hash) => (BALANCE, Some((hash, 15))),
        }
    }

    /// Appends the name.
    pub fn write_name(self, out: &mut Vec<u8>) {
        let (head, hash) = self.spelling();
        out.extend_from_slice(head.as_bytes());
        if let Some((hash, digits)) = hash {
            out.extend_from_slice(&hash.to_base32()[..digits]);
        }
    }

    /// Returns the length of the name in bytes.
    pub(crate) const fn name_len(self) -> usize {
        match self.spelling() {
            (head, None) => head.len(),
            (head, Some((_, digits))) => head.len() + digits,
        }
    }

    /// Returns a key that sorts as the name does.
    pub(crate) fn name_key(self) -> [u8; NAME_LIMIT] {
        let mut key = [0; NAME_LIMIT];
        let (head, hash) = self.spelling();
        let (name, rest) = key.split_at_mut(head.len());
        name.copy_from_slice(head.as_bytes());
        if let Some((hash, digits)) = hash {
            rest[..digits].copy_from_slice(&hash.to_base32()[..digits]);
        }
        key
    }

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> String {
        let mut out = Vec::with_capacity(28);
        self.write_name(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table().name(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_kube_proxys() {
        // From a recorded case: app/web:http over TCP, endpoint 10.128.1.10:8080.
        let port = PortName::new("app/web", "http", Protocol::Tcp);
        assert_eq!(ChainId::Hashed(Prefix::Svc, port.hash()).name(), "KUBE-SVC-GSODGFK7F4BKZ7VG");
        let sep = ChainId::Hashed(Prefix::Sep, port.endpoint_hash("10.128.1.10:8080"));
        assert_eq!(sep.to_string(), "nat KUBE-SEP-UK5NFWU76AC32MPY");
    }

    #[test]
    fn names_parse_back_to_the_chain_they_came_from() {
        let hash = PortName::new("a/b", "", Protocol::Udp).hash();
        for prefix in Prefix::ALL {
            let id = ChainId::Hashed(prefix, hash);
            assert!(id.name().len() <= NAME_LIMIT, "the kernel's limit");
            assert_eq!(ChainId::parse(Table::Nat, id.name().as_bytes()), Some(id));
            assert_eq!(ChainId::parse(Table::Filter, id.name().as_bytes()), None);
        }
        for table in [Table::Nat, Table::Filter] {
            let id = ChainId::Dispatch(table, hash.short());
            assert!(id.name().len() <= 28, "the kernel's limit");
            assert_eq!(ChainId::parse(table, id.name().as_bytes()), Some(id));
            assert_eq!(ChainId::parse(Table::Mangle, id.name().as_bytes()), None);
        }
        for prefix in [&[0][..], &[15, 3], &[1, 2, 3]] {
            let id = ChainId::balance(ChainId::Hashed(Prefix::Svc, hash), prefix);
            assert_eq!(id.name().len(), 28, "the kernel's limit");
            assert_eq!(ChainId::parse(Table::Nat, id.name().as_bytes()), Some(id));
            assert_eq!(ChainId::parse(Table::Filter, id.name().as_bytes()), None);
            let ChainId::Balance(hash) = id else { panic!("{id}") };
            assert_eq!(usize::from(ChainId::balance_level(hash)), prefix.len());
        }
        for &fixed in FixedChain::ALL {
            let id = ChainId::Fixed(fixed);
            assert_eq!(ChainId::parse(fixed.table(), id.name().as_bytes()), Some(id));
        }
    }

    #[test]
    fn keys_sort_as_names_do() {
        let hash = |n: u8| PortName::new(&format!("a/{n}"), "", Protocol::Udp).hash();
        let hashed = (0..40).flat_map(|n| Prefix::ALL.map(|prefix| ChainId::Hashed(prefix, hash(n))));
        let fixed = FixedChain::ALL.iter().map(|&chain| ChainId::Fixed(chain));
        let mut all: Vec<ChainId> =
            hashed.chain(fixed).chain((0..9).map(|n| ChainId::Dispatch(Table::Nat, hash(n)))).collect();
        assert!(all.iter().all(|id| id.name_len() == id.name().len()));
        all.sort_by_key(|id| id.name());
        assert!(all.is_sorted_by_key(|id| id.name_key()));
    }

    #[test]
    fn others_chains_are_not_ours() {
        for name in [
            "KUBE-FIREWALL",
            "KUBE-IPTABLES-HINT",
            "KUBE-KUBELET-CANARY",
            "KUBE-SVC-",
            "KUBE-SVC-abcdefghijklmnop",
            "KUBE-SVC-GSODGFK7F4BKZ7V1",
            "KUBE-SVC-GSODGFK7F4BKZ7VGA",
            "KUBE-SVC-DSP-GSODGFK7F4BKZ7V1",
            "KUBE-SVC-DSP-GSODGFK7F4BKZ71",
            "KUBE-SVC-DSP-GSODGFK7F4BKZ7",
            "KUBE-SVC-BAL-GSODGFK7F4BKZ7V1",
            "KUBE-SVC-BAL-GSODGFK7F4BKZ7",
            "KUBE-SVL-BAL-GSODGFK7F4BKZ7V",
            "DOCKER",
        ] {
            for table in Table::ALL {
                assert_eq!(ChainId::parse(table, name.as_bytes()), None, "{name}");
            }
        }
    }

    #[test]
    fn an_unnamed_port_has_no_colon() {
        assert_eq!(PortName::new("ns/name", "", Protocol::Tcp).as_str(), "ns/name");
        assert_eq!(PortName::new("ns/name", "p", Protocol::Tcp).as_str(), "ns/name:p");
    }
}
