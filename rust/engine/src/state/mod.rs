//! Desired, applied and observed state of each family, and plans for the difference.

pub mod plan;

pub(crate) mod delta;
pub(crate) mod digest;
pub(crate) mod family;
pub(crate) mod lines;
pub(crate) mod observed;
pub(crate) mod ports;
