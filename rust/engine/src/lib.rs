//! Cluster objects in, the right rules in the kernel out: the pure core of ferrule.
//!
//! Nothing in this crate opens a file, starts a process, looks at a clock or knows of Python. It takes bytes (API
//! lists, watch frames, what `iptables-save` printed) and gives bytes back (what `iptables-restore` must read).
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
//! | [`input`] | decodes Services, EndpointSlices and our Node; says what is wrong with them |
//! | [`model`] | objects by key, service ports, endpoints, claims on addresses |
//! | [`rules`] | the proxy semantics: typed rules, their text, chain by chain |
//! | [`mod@write`] | one plan's chains as restore text, cut into transactions |
//! | [`read`] | the kernel's chains as digests, from `iptables-save` text |
//! | [`netlink`] | reading and writing over netlink, and conntrack |
//! | [`state`] | desired, applied and observed digests; plans and their outcome |
//!
//! A module imports only from folders above its own in this table: [`state`] decides what is written, so it comes last.
//! The order is enforced by `make lint`.
//!
//! [`engine::Engine`] is the façade.
#![forbid(unsafe_code)]

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
pub use error::{InputError, PlanError};
pub use input::problem::Problem;
pub use input::wire::Kind;
pub use model::address::Family;
pub use model::names::FixedChain;
pub use netlink::{addresses, conntrack, counters, nft};
pub use options::{BalanceLimits, ChainLayout, LocalDetector, Options, TreeLimits, WriteStrategy};
pub use state::plan::Plan;
pub use state::removal::{Removal, removals};
pub use write::restore_text;
