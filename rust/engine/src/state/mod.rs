//! The desired, applied and observed state of each family, and the plans that remove the difference.

pub mod plan;
pub mod removal;

pub(crate) mod delta;
pub(crate) mod family;
pub(crate) mod ports;
pub(crate) mod rendering;

mod lifecycle;
mod outcomes;
mod planning;
mod port_reports;
mod port_state;
