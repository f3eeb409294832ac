//! Desired, applied and observed state of each family, and plans for the difference.

pub mod plan;

pub(crate) mod delta;
pub(crate) mod family;
pub(crate) mod ports;
pub(crate) mod rendering;

mod port_reports;
mod port_state;
