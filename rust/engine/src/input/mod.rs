//! API objects as bytes → the fields that make rules, decoded and validated.
//!
//! Depends on nothing but [`crate::model::address`] and the names of ports; knows nothing of rules.

pub mod problem;
pub mod wire;

pub(crate) mod list;
pub(crate) mod node;
pub(crate) mod service;
pub(crate) mod source_ranges;
