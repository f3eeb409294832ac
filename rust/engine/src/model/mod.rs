//! The cluster as this node sees it: objects by key, service ports, endpoints, and who owns which address.
//!
//! No rule is made here; [`crate::rules`] derives them from this.

pub mod address;
pub mod interface;
pub mod names;

pub(crate) mod claims;
pub(crate) mod endpoints;
pub(crate) mod store;
pub(crate) mod text;
pub(crate) mod topology;
