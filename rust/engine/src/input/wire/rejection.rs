//! Decodes one item, or finds the field that does not decode.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Kind;
use super::envelope::{identity, key};
use crate::input::problem::{Problem, ProblemKind, shorten};

/// An object that could not be decoded, with its identity as far as it is known.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) key: Option<String>,
    pub(crate) problem: Problem,
}

/// Decodes one item, or returns which field is wrong. `position` identifies an item without a name.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    kind: Kind,
    raw: &'a RawValue,
    position: usize,
) -> Result<T, Box<Rejection>> {
    serde_json::from_str::<T>(raw.get()).map_err(|_| Box::new(explain::<T>(kind, raw, position)))
}

/// Returns the rejection of an item without a usable name. It has no key, so its previous state cannot be kept.
pub(crate) fn nameless(kind: Kind, position: usize) -> Rejection {
    Rejection {
        key: None,
        problem: Problem {
            object: format!("{} (item {position})", kind.name()),
            field: "metadata.name".into(),
            value: String::new(),
            reason: "is missing or empty".into(),
            kind: ProblemKind::Rejected,
        },
    }
}

fn explain<'a, T: Deserialize<'a>>(kind: Kind, raw: &'a RawValue, position: usize) -> Rejection {
    let key = identity(raw).and_then(|i| key(kind, &i.metadata));
    let object = match &key {
        Some(key) => format!("{} {key}", kind.name()),
        None => format!("{} (item {position})", kind.name()),
    };
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let (field, reason) = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => (".".to_owned(), "cannot be decoded".to_owned()),
        Err(error) => (error.path().to_string(), without_position(&error.inner().to_string())),
    };
    let value = value_at(raw, &field);
    Rejection {
        key,
        problem: Problem { object, field: field.into(), value, reason: reason.into(), kind: ProblemKind::Rejected },
    }
}

/// Removes the position from a message of `serde_json`: it refers to the item's text, which a reader of the object does
/// not have.
fn without_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message.to_owned(),
    }
}

fn value_at(raw: &RawValue, path: &str) -> String {
    let Ok(root) = serde_json::from_str::<serde_json::Value>(raw.get()) else { return String::new() };
    let pointer: String = path.replace('[', ".").replace(']', "").split('.').filter(|s| !s.is_empty()).fold(
        String::new(),
        |mut pointer, segment| {
            pointer.push('/');
            pointer.push_str(segment);
            pointer
        },
    );
    root.pointer(&pointer).map(|v| shorten(&v.to_string())).unwrap_or_default()
}
