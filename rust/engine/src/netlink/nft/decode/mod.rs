//! Rules as `nf_tables` lists them, decoded into typed rules.

pub(super) mod extensions;
pub(super) mod rule;
pub(super) mod verdicts;
