//! The pure core of ferrule: computes a node's rules from cluster objects and the observed state of the kernel.
//!
//! This crate uses no files, processes, clocks or Python. It takes bytes (API lists, watch frames, the output of
//! `iptables-save`) and returns bytes (the input of `iptables-restore`, netlink requests).
//!
//! The folders, in the order data flows through them:
//!
//! ```text
//! bytes ─► input ─► model ─► rules ─► state ─► write ─► restore text ─► netlink ─► bytes
//!                                       ▲                                  │
//!                                       └───────────── read ◄──────────────┘
//! ```
//!
//! | Folder | What it does |
//! |---|---|
//! | [`input`] | decodes Services, EndpointSlices and this node's Node; reports problems in them |
//! | [`model`] | objects by key, service ports, endpoints, claims on addresses |
//! | [`rules`] | the proxy semantics: typed rules and their text, chain by chain |
//! | [`mod@write`] | one plan's chains as restore text, split into transactions |
//! | [`read`] | the kernel's chains as digests, from `iptables-save` text |
//! | [`netlink`] | reading and writing over netlink, and conntrack |
//! | [`state`] | desired, applied and observed digests; plans and their outcome |
//!
//! A module imports only from folders above its own in this table: [`state`] decides what is written, so it comes last.
//! The order is enforced by `make lint`.
//!
//! [`engine::Engine`] is the façade.
#![forbid(unsafe_code)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("ferrule assumes 64-bit pointers: sizes of lists and texts are counted in usize");

pub mod input;
pub mod model;
pub mod rules;

pub mod read;
pub mod write;

pub mod netlink;

pub mod state;

pub mod engine;
pub mod error;
pub mod options;
pub mod report;

pub use engine::Engine;
pub use error::{InputError, ListError, ObserveError, PlanError};
pub use input::node::OwnNode;
pub use input::problem::Problem;
pub use input::standing_problems::ProblemChanges;
pub use input::wire::Kind;
pub use model::address::Family;
pub use model::names::FixedChain;
pub use netlink::{addresses, conntrack, counters, nft};
pub use options::{BalanceLimits, ChainLayout, LocalDetector, Options, TreeLimits, WriteStrategy};
pub use state::plan::Plan;
pub use state::removal::{Removal, removals};
pub use write::restore_text;
