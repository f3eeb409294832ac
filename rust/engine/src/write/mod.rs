//! A plan's chains as `iptables-restore` text, cut into transactions.

pub mod text;

pub(crate) mod restore;
pub(crate) mod writes;
