//! Netlink messages as bytes. Linux UAPI only; sockets belong to the caller.
//!
//! [`framing`] knows messages and attributes, for requests and for answers. The other modules know one subsystem each.

pub mod addresses;
pub mod conntrack;
pub mod counters;
pub mod nft;

mod framing;

pub use framing::{Acknowledgement, acknowledgements};
