//! Errors of the engine: one variant per failed operation. Single invalid objects are not errors, see [`crate::input::problem`].

use thiserror::Error;

/// A whole batch or an option is invalid, and nothing was changed. The caller's input is at fault; the same input fails
/// again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InputError {
    /// A page is not a List or an array of objects.
    #[error("page {page} is not a list of objects: {reason}")]
    Page {
        /// Index of the page in the call.
        page: usize,
        /// The error of the JSON reader.
        reason: String,
    },
    /// The text is truncated, or is not the output of `iptables-save`.
    #[error("not the output of iptables-save: {reason}")]
    Saved {
        /// What is wrong.
        reason: String,
    },
    /// The reader has not read all rules of the family.
    #[error("the rules were not read to their end")]
    NotRead,
    /// An option has an invalid value.
    #[error("{name}: {value:?} {reason}")]
    Option {
        /// Name of the option.
        name: &'static str,
        /// Its value.
        value: String,
        /// Why it is invalid.
        reason: String,
    },
}

/// `plan`, `commit` or `abandon` was called when it must not be: a fault of the caller's loop.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Not every kind is listed yet; holds the name of a missing one.
    #[error("cannot plan before every kind is listed: {0} is missing")]
    NotListed(&'static str),
    /// The entry jumps in the kernel are unknown: call `observe` first.
    #[error("the kernel's rules must be observed before the next plan")]
    NotObserved,
    /// Another plan of this family is still in flight.
    #[error("the previous plan was neither committed nor abandoned")]
    InFlight,
    /// The plan is not the one in flight.
    #[error("this plan is not the one in flight")]
    Stale,
}
