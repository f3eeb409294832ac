//! What the kernel holds, read from `iptables-save` text. The netlink reader is [`crate::netlink::nft::Reader`].

pub(crate) mod readback;
