//! The proxy semantics: which rules each chain holds for a given state of the cluster.
//!
//! Rules are passed to a [`Sink`], chain by chain, as typed values. Their further use (restore text, digests, netlink
//! messages) is not decided here. `docs/design/rules.md` lists the chains and the decisions behind them.

mod backend;
mod balance;
mod context;
mod dispatch;
mod fixed;
mod node_facts;
mod port;

pub(crate) use context::{Context, PortView, Sink};
pub(crate) use dispatch::{dispatch_rules, rank_key};
pub(crate) use fixed::{dispatch_tail, fixed_rules};
pub(crate) use node_facts::{NodeFacts, NodePortsOn};
pub(crate) use port::port_chains;
