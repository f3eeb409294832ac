//! Decodes and validates API objects: from bytes to the fields that rules depend on.
//!
//! Depends only on [`crate::model::address`] and the names of ports, not on rules.

pub mod problem;
pub(crate) mod standing_problems;
pub mod wire;

pub(crate) mod created;
pub(crate) mod list;
pub(crate) mod node;
pub(crate) mod service;
pub(crate) mod source_ranges;

use std::hash::Hash;

use hashbrown::HashSet;

/// Drops repeated values of a list and keeps the first of each: an object that lists an address twice has one rule for it.
fn distinct<T: Copy + Eq + Hash>(mut list: Vec<T>) -> Box<[T]> {
    if list.len() > 1 {
        let mut seen = HashSet::with_capacity(list.len());
        list.retain(|&value| seen.insert(value));
    }
    list.into()
}
