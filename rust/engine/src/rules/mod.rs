//! What an iptables rule is, how it is printed and parsed, and which rules stand in which chain.

pub mod rule;

pub(crate) mod dispatch_tree;
pub(crate) mod hooks;
pub(crate) mod rule_parse;
pub(crate) mod ruleset;
