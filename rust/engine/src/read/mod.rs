//! Reads what the kernel holds: [`observed`] accumulates it, [`saved_text`] reads it from `iptables-save` text. The
//! netlink reader is [`crate::netlink::nft::Reader`].

pub(crate) mod observed;
pub(crate) mod saved_text;
