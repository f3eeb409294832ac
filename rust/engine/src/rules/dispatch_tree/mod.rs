//! Dispatch chains of large clusters, cut into a radix tree of short chains.

pub(crate) mod dispatch;
pub(crate) mod prefix;
pub(crate) mod tree;
