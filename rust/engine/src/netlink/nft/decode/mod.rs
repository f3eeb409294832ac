//! Decodes rules as listed by `nf_tables` into typed rules.

pub(super) mod extensions;
pub(super) mod rule;
pub(super) mod verdicts;
