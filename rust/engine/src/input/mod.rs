//! Decodes and validates API objects: from bytes to the fields that rules depend on.
//!
//! Depends only on [`crate::model::address`] and the names of ports, not on rules.

pub mod problem;
pub(crate) mod standing_problems;
pub mod wire;

pub(crate) mod created;
pub(crate) mod list;
pub(crate) mod node;
pub(crate) mod service;
pub(crate) mod source_ranges;
