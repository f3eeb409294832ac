//! Errors of the engine, one type for each party at fault: the input, what the kernel's tools printed, or the caller's
//! order of calls. Single invalid objects are not errors, see [`crate::input::problem`].

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
        /// The JSON reader's message.
        reason: String,
    },
    /// An item of a list is longer than any object may be.
    #[error("item {item} is longer than {limit} bytes; it begins with {begins:?}")]
    ItemTooLong {
        /// Its position in the list.
        item: usize,
        /// The limit in bytes.
        limit: usize,
        /// Its first bytes.
        begins: String,
    },
    /// An option with a value that cannot work.
    #[error("{name}: {value:?} {reason}")]
    Option {
        /// Name of the option.
        name: &'static str,
        /// Its value.
        value: String,
        /// Why the value cannot work.
        reason: String,
    },
}

/// A list that arrives in chunks is not taken; nothing was changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ListError {
    /// The text is at fault.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The caller is at fault: it did not begin the list, or the list was discarded in between.
    #[error("no list of {0} has begun")]
    NotBegun(&'static str),
}

/// The kernel's rules are not taken as observed; nothing was changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ObserveError {
    /// The tool is at fault: `iptables-save` output that is cut short.
    #[error("not the output of iptables-save: {reason}")]
    Saved {
        /// What is wrong.
        reason: String,
    },
    /// The caller is at fault: the reader has not read all rules of the family.
    #[error("the rules were not read to their end")]
    NotRead,
}

/// `plan`, `commit` or `abandon` was called out of order: the caller is at fault.
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
