//! Errors of the engine: one variant per failed operation. Single invalid objects are not errors, see [`crate::input::problem`].

use thiserror::Error;

/// A whole batch or an option is invalid, and nothing was changed. The caller's input is at fault; the same input fails
/// again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InputError {
    /// A page is neither a List nor an array of objects.
    #[error("page {page} is not a list of objects: {reason}")]
    Page {
        /// Index of the page in the call.
        page: usize,
        /// What the JSON reader said.
        reason: String,
    },
    /// `iptables-save` output that ends in the middle or is none.
    #[error("not the output of iptables-save: {reason}")]
    Saved {
        /// What is wrong.
        reason: String,
    },
    /// A reader that has not read all rules of the family.
    #[error("the rules were not read to their end")]
    NotRead,
    /// An option with a value that cannot work.
    #[error("{name}: {value:?} {reason}")]
    Option {
        /// Which.
        name: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: String,
    },
}

/// `plan`, `commit` or `abandon` was called when it must not be: a fault of the caller's loop.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Not every kind has been listed yet; names the missing ones.
    #[error("nothing is planned before every kind is listed: {0} is missing")]
    NotListed(&'static str),
    /// The kernel's jump rules are unknown: `observe` first.
    #[error("the kernel's rules must be observed before the next plan")]
    NotObserved,
    /// Another plan of this family is still in flight.
    #[error("the previous plan was neither committed nor abandoned")]
    InFlight,
    /// The plan is not the one in flight.
    #[error("this plan is not the one in flight")]
    Stale,
}
