//! A backend: an endpoint as used by the rules of one service port.

use std::net::SocketAddr;

use crate::model::names::{ChainId, NameHash};

/// An endpoint with its chain.
pub(super) struct Backend {
    pub(super) chain: ChainId,
    /// The hash in the name of its chain.
    pub(super) hash: NameHash,
    /// `ip:port`; backends are ordered by it, compared as text.
    pub(super) text: String,
    pub(super) address: SocketAddr,
    pub(super) in_cluster: bool,
    pub(super) in_local: bool,
}
