//! Dispatch chains of large clusters as radix trees of short chains.

pub(crate) mod chains;
pub(crate) mod key;
pub(crate) mod node;
pub(crate) mod tree;

mod builder;

#[cfg(test)]
mod tests;
