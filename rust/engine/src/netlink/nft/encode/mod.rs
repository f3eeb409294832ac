//! Typed rules encoded as `nf_tables` takes them, and the batches that carry them.

pub(super) mod batch;
pub(super) mod extensions;
pub(super) mod rule;
