//! Problems of cluster objects: which object, which field, which value, and why.
//!
//! Problems are state, not log lines: an object's problems are replaced when it arrives again and removed with it, so
//! that a reader can always query what is wrong *now*.

use std::borrow::Cow;

/// The effect of a problem on its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The object could not be decoded and keeps its previous state.
    Rejected,
    /// One element of the object is ignored; the rest takes effect.
    Ignored,
    /// Another object owns the same address and port.
    Conflict,
}

impl ProblemKind {
    /// Returns the name used in Python and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Ignored => "ignored",
            Self::Conflict => "conflict",
        }
    }
}

/// One problem of one object.
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
    /// The effect on the object.
    pub kind: ProblemKind,
}

/// The maximum length of a value quoted in a problem, so that a hostile object cannot fill the log.
const VALUE_LIMIT: usize = 120;

/// Shortens a value for display, at a character boundary.
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
