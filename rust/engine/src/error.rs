//! Errors of the engine: one variant per failed operation. Single bad objects are no errors, see [`crate::input::problem`].

use std::fmt;

/// A whole batch or an option cannot be used. Nothing was changed. The caller's input is at fault; the same input
/// fails again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputError {
    /// A page is neither a List nor an array of objects.
    Page {
        /// Index of the page in the call.
        page: usize,
        /// What the JSON reader said.
        reason: String,
    },
    /// `iptables-save` output that ends in the middle or is none.
    Saved {
        /// What is wrong.
        reason: String,
    },
    /// A reader that has not read all rules of the family.
    NotRead,
    /// An option with a value that cannot work.
    Option {
        /// Which.
        name: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: String,
    },
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page { page, reason } => write!(f, "page {page} is not a list of objects: {reason}"),
            Self::Saved { reason } => write!(f, "not the output of iptables-save: {reason}"),
            Self::NotRead => f.write_str("the rules were not read to their end"),
            Self::Option { name, value, reason } => write!(f, "{name}: {value:?} {reason}"),
        }
    }
}

impl std::error::Error for InputError {}

/// `plan`, `commit` or `abandon` was called when it must not be: a fault of the caller's loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// Not every kind has been listed yet; names the missing ones.
    NotListed(&'static str),
    /// The kernel's jump rules are unknown: `observe` first.
    NotObserved,
    /// Another plan of this family is still in flight.
    InFlight,
    /// The plan is not the one in flight.
    Stale,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListed(kind) => write!(f, "nothing is planned before every kind is listed: {kind} is missing"),
            Self::NotObserved => f.write_str("the kernel's rules must be observed before the next plan"),
            Self::InFlight => f.write_str("the previous plan was neither committed nor abandoned"),
            Self::Stale => f.write_str("this plan is not the one in flight"),
        }
    }
}

impl std::error::Error for PlanError {}
