//! The cluster as seen from this node: objects by key, service ports, endpoints, and address ownership.
//!
//! This module does not build rules; [`crate::rules`] derives them from it.

pub mod address;
pub mod interface;
pub mod names;

pub(crate) mod candidates;
pub(crate) mod claims;
pub(crate) mod endpoints;
pub(crate) mod store;
pub(crate) mod text;
pub(crate) mod topology;
