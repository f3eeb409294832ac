//! What an iptables rule is, how it is printed and parsed, and which rules stand in which chain.

pub mod matches;
pub mod rule;

pub(crate) mod digest;
pub(crate) mod dispatch_tree;
pub(crate) mod entry_jumps;
pub(crate) mod probability;
pub(crate) mod ruleset;
pub(crate) mod save_format;
