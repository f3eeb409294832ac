//! The values that options take.

use crate::error::InputError;
use crate::model::address::Net;
use crate::model::interface::Interface;

/// How traffic from this node's own Pods is recognised (kube-proxy's detectLocalMode).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalDetector {
    /// Not at all: no rule depends on it.
    #[default]
    None,
    /// Source inside the cluster's Pod networks, at most one a family.
    ClusterCidr(Vec<Net>),
    /// Source inside this node's Pod networks, read from the Node object.
    NodeCidr,
    /// Arrived through this bridge.
    Bridge(Interface),
    /// Arrived through an interface whose name starts so.
    Prefix(Interface),
}

/// How a large write is cut into transactions. Small ones are always one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteStrategy {
    /// One transaction a table: for iptables-legacy, where every COMMIT swaps the whole table.
    #[default]
    OneBlock,
    /// Several, in an order that keeps every moment valid: for iptables-nft, which is quadratic in the size of one.
    OrderedBlocks,
    /// The same with larger ones: for the kernel's `nf_tables` over netlink, which is not quadratic in anything.
    Netlink,
}

/// The layout of dispatch and balancing chains: flat, as kube-proxy writes them, or trees of short chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainLayout {
    /// Trees where there is much to choose from: see [`TreeLimits`], [`BalanceLimits`].
    #[default]
    Auto,
    /// One chain each.
    Flat,
    /// A tree for each, however small; of endpoints: for each set that does not fit into one part.
    Tree,
}

impl ChainLayout {
    pub(super) fn parse(name: &'static str, word: &str) -> Result<Self, InputError> {
        Ok(match word {
            "auto" => Self::Auto,
            "flat" => Self::Flat,
            "tree" => Self::Tree,
            other => return Err(wrong(name, other, &"is none of auto, flat, tree")),
        })
    }
}

/// How many endpoints a chain may choose from without parts, the root of a tree or one of its parts. With
/// [`ChainLayout::Flat`]: any number. `docs/design/balancing.md` says why these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceLimits {
    /// Under [`ChainLayout::Auto`].
    pub auto: usize,
    /// Under [`ChainLayout::Tree`].
    pub tree: usize,
}

impl Default for BalanceLimits {
    fn default() -> Self {
        Self { auto: 100, tree: 16 }
    }
}

/// When dispatch chains become trees and how wide these are. `docs/design/dispatch.md` says why these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// Under [`ChainLayout::Auto`], dispatch chains with more rules than this, all together, become trees…
    pub grow: usize,
    /// …and trees with fewer than this become chains again. Between the two nothing changes.
    pub shrink: usize,
    /// Rules that one leaf may hold.
    pub leaf: usize,
    /// Parts below one another; the last of them are leaves, however many rules they hold. nft takes fifteen nested chains:
    /// KUBE-SERVICES, FW, EXT, SVC, two of a balancing tree, SEP and KUBE-MARK-MASQ are eight.
    pub depth: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { grow: 1000, shrink: 750, leaf: 16, depth: 7 }
    }
}

/// Addresses on which node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodePortAddress {
    Net(Net),
    /// The node's own IP.
    Primary,
    Localhost,
    All,
}

/// Returns the error for an invalid option.
pub(super) fn wrong(name: &'static str, value: &str, reason: &dyn std::fmt::Display) -> InputError {
    InputError::Option { name, value: value.to_owned(), reason: reason.to_string() }
}
