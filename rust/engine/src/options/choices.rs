//! The values that options take.

use crate::error::InputError;
use crate::model::address::Net;
use crate::model::interface::Interface;

/// How traffic from this node's own Pods is detected (kube-proxy's detectLocalMode).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalDetector {
    /// Not detected; no rule depends on it.
    #[default]
    None,
    /// Source inside the cluster's Pod networks, at most one per family.
    ClusterCidr(Vec<Net>),
    /// Source inside this node's Pod networks, read from the Node object.
    NodeCidr,
    /// Input interface is this bridge.
    Bridge(Interface),
    /// Input interface has a name with this prefix.
    Prefix(Interface),
}

/// How a large write is split into transactions. Small ones are always one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteStrategy {
    /// One transaction per table: for iptables-legacy, where every COMMIT replaces the whole table.
    #[default]
    OneBlock,
    /// Several transactions, in an order that keeps every state between them valid: for iptables-nft, which takes time
    /// quadratic in the size of one.
    OrderedBlocks,
    /// Several larger transactions: for `nf_tables` over netlink, which takes linear time.
    Netlink,
}

/// The layout of dispatch and balancing chains: flat, as kube-proxy writes them, or trees of short chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainLayout {
    /// Trees above a size: see [`TreeLimits`], [`BalanceLimits`].
    #[default]
    Auto,
    /// One flat chain each.
    Flat,
    /// Always trees; for endpoints, above the size of one chain.
    Tree,
}

impl ChainLayout {
    pub(super) fn parse(name: &'static str, word: &str) -> Result<Self, InputError> {
        Ok(match word {
            "auto" => Self::Auto,
            "flat" => Self::Flat,
            "tree" => Self::Tree,
            other => return Err(wrong(name, other, &"is not one of auto, flat, tree")),
        })
    }
}

/// The number of endpoints that a balancing chain lists itself, before it becomes a tree. Unlimited with
/// [`ChainLayout::Flat`]. `docs/design/balancing.md` explains the values.
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

/// When dispatch chains become trees, and the shape of these trees. `docs/design/dispatch.md` explains the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// Under [`ChainLayout::Auto`], dispatch chains with more rules than this, all together, become trees…
    pub grow: usize,
    /// …and trees with fewer than this become flat chains again. In between the layout stays.
    pub shrink: usize,
    /// Maximum number of rules in a leaf.
    pub leaf: usize,
    /// Maximum tree depth. Nodes at this depth are leaves of any size. nft allows fifteen nested jumps: KUBE-SERVICES,
    /// FW, EXT, SVC, two chains of a balancing tree, SEP and KUBE-MARK-MASQ are eight.
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
