//! Iptables rules: their type, how they are printed and parsed, and which rules each chain holds.

pub mod matches;
pub mod rule;

pub(crate) mod digest;
pub(crate) mod dispatch_tree;
pub(crate) mod entry_jumps;
pub(crate) mod probability;
pub(crate) mod ruleset;
pub(crate) mod save_format;
