//! A standing complaint about cluster input: which object, which field, which value, and why.
//!
//! Problems are state, not log lines: an object's problems are replaced when it arrives again and vanish with it, so
//! a reader can always ask what is wrong *now*.

use std::borrow::Cow;

/// What a problem costs its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The object could not be decoded and keeps its previous state.
    Rejected,
    /// One element of it is left out; the rest works.
    Ignored,
    /// Another object owns the same address and port.
    Conflict,
}

impl ProblemKind {
    /// The word the Python side and the logs use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Ignored => "ignored",
            Self::Conflict => "conflict",
        }
    }
}

/// One complaint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// `Service shop/web`.
    pub object: String,
    /// `spec.ports[0].port`.
    pub field: Cow<'static, str>,
    /// The offending value, shortened.
    pub value: String,
    /// A clause that continues "field: value …".
    pub reason: Cow<'static, str>,
    /// What it costs.
    pub kind: ProblemKind,
}

/// Longest value quoted in a problem; the rest is elided. A hostile object must not fill the log.
const VALUE_LIMIT: usize = 120;

/// Shorten a value for display, at a character boundary.
#[must_use]
pub fn shorten(value: &str) -> String {
    if value.len() <= VALUE_LIMIT {
        return value.to_owned();
    }
    let cut = (0..=VALUE_LIMIT).rev().find(|&i| value.is_char_boundary(i)).unwrap_or(0);
    format!("{}… ({} bytes)", &value[..cut], value.len())
}

/// Collects the problems of one object while it is decoded.
pub(crate) struct Problems<'a> {
    object: &'a dyn Fn() -> String,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(crate) fn new(object: &'a dyn Fn() -> String) -> Self {
        Self { object, found: Vec::new() }
    }

    pub(crate) fn ignore(
        &mut self,
        field: impl Into<Cow<'static, str>>,
        value: &dyn std::fmt::Display,
        reason: impl Into<Cow<'static, str>>,
    ) {
        self.found.push(Problem {
            object: (self.object)(),
            field: field.into(),
            value: shorten(&value.to_string()),
            reason: reason.into(),
            kind: ProblemKind::Ignored,
        });
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = "ä".repeat(200);
        let short = shorten(&long);
        assert!(short.starts_with("ää") && short.ends_with("… (400 bytes)"), "{short}");
        assert_eq!(shorten("80"), "80");
    }
}
