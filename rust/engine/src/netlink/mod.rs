//! Encodes and decodes netlink messages. Linux UAPI only; sockets belong to the caller.
//!
//! [`framing`] handles messages and attributes of requests and responses. Each other module handles one subsystem.

pub mod addresses;
pub mod conntrack;
pub mod counters;
pub mod nft;

mod framing;

pub use framing::{Acknowledgement, acknowledgements};
