//! The tables and chains that ferrule writes, and the names of the chains.

use std::fmt;

use super::NameHash;

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
    pub(super) const ALL: [Self; 5] = [Self::Sep, Self::Svc, Self::Svl, Self::Ext, Self::Fw];

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
