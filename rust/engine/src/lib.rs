//! Cluster objects in, the right rules in the kernel out: the pure core of ferrule.
//!
//! Nothing in this crate opens a file, starts a process, looks at a clock or knows of Python. It takes bytes (API
//! lists, watch frames, what `iptables-save` printed) and gives bytes back (what `iptables-restore` must read).
//!
//! The modules, in the order data flows through them:
//!
//! ```text
//! bytes ─► wire ─► store ─► endpoints ─► topology ─► ruleset ─► delta ─► restore ─► bytes
//!            │        │          services ┘  claims ┘    │         ▲
//!         address  problem                  rule ◄─ names         observed ◄─ readback ◄─ iptables-save
//!                                                                    └────── nft ◄─ netlink
//! ```
//!
//! [`engine::Engine`] is the façade; everything else is reachable from its seven calls.
#![forbid(unsafe_code)]

pub mod address;
pub mod options;
pub mod problem;
pub mod wire;

mod list;
mod store;

pub mod names;
pub mod rule;
mod rule_parse;

mod digest;

mod claims;
pub mod conntrack;
mod endpoints;
mod node;
mod services;
mod topology;

mod hooks;
mod lines;
mod netlink;
mod ruleset;

mod delta;
mod dispatch;
mod family;
pub mod nft;
mod observed;
mod ports;
mod prefix;
mod readback;
mod restore;
mod tree;
mod writes;

pub mod engine;
pub mod error;
pub mod plan;
pub mod report;
pub mod text;

pub use engine::Engine;
pub use error::{InputError, PlanError};
pub use options::{BalanceLimits, Form, LocalDetector, Options, TreeLimits, WriteStrategy};
pub use plan::Plan;
