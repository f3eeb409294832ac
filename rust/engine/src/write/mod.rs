//! Serialises a plan's chains as `iptables-restore` text, split into transactions.

pub mod restore_text;

pub(crate) mod batches;
pub(crate) mod changeset;
pub(crate) mod rendered_rules;
