//! Netlink messages as bytes: `nf_tables` and conntrack. Linux UAPI only; sockets belong to the caller.

pub mod conntrack;
pub mod nft;

mod framing;
