//! Encodes typed rules for `nf_tables`, and the batches that carry them.

pub(super) mod batch;
pub(super) mod extensions;
pub(super) mod rule;
