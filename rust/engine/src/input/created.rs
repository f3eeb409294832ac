//! When an object was created: older Services keep what younger ones claim, too.

use std::fmt;

use serde_json::value::RawValue;

/// `metadata.creationTimestamp`. Earlier times sort first; an unknown time sorts after all others.
///
/// Unknown is what is missing, as in a manifest that was never applied, or not in the form of the API server, which
/// always writes UTC and whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Created(u64);

/// The API server's form: `0` stands for a digit.
const FORM: &[u8; 20] = b"0000-00-00T00:00:00Z";

impl Created {
    pub(crate) const UNKNOWN: Self = Self(u64::MAX);

    /// Reads the JSON value. It decides about order only, so a value of another shape does not cost the object anything.
    pub(crate) fn read(raw: Option<&RawValue>) -> Self {
        let text = raw.map(|raw| raw.get().as_bytes());
        let inner = text.and_then(|text| text.strip_prefix(b"\"")?.strip_suffix(b"\""));
        inner.and_then(Self::parse).unwrap_or(Self::UNKNOWN)
    }

    /// The digits as one number have the order of the times.
    fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != FORM.len() {
            return None;
        }
        let mut digits = 0;
        for (&byte, &form) in text.iter().zip(FORM) {
            match form {
                b'0' if byte.is_ascii_digit() => digits = digits * 10 + u64::from(byte - b'0'),
                _ if form != b'0' && byte == form => {}
                _ => return None,
            }
        }
        Some(Self(digits))
    }
}

/// A clause for messages: `created 2025-01-31T09:30:00Z`.
impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNKNOWN {
            return f.write_str("creation time unknown");
        }
        let digits = format!("{:014}", self.0);
        let mut digits = digits.chars();
        f.write_str("created ")?;
        FORM.iter().try_for_each(|&form| {
            let next = if form == b'0' { digits.next() } else { None };
            write!(f, "{}", next.unwrap_or_else(|| form.into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Created {
        Created::read(serde_json::from_str::<Option<&RawValue>>(json).unwrap())
    }

    #[test]
    fn times_sort_and_print() {
        let times = ["0001-01-01T00:00:00Z", "2024-02-29T23:59:59Z", "2024-03-01T00:00:00Z", "9999-12-31T23:59:59Z"];
        let read: Vec<Created> = times.iter().map(|time| read(&format!("\"{time}\""))).collect();
        assert!(read.is_sorted());
        assert!(read.iter().all(|&created| created < Created::UNKNOWN));
        let printed: Vec<String> = read.iter().map(ToString::to_string).collect();
        assert_eq!(printed, times.map(|time| format!("created {time}")));
    }

    #[test]
    fn anything_else_is_unknown() {
        for json in [
            "null",
            "5",
            "true",
            "[]",
            r#"{"a":"2024-01-01T00:00:00Z"}"#,
            r#""""#,
            r#""2024-01-01T00:00:00+02:00""#,
            r#""2024-01-01T00:00:00.5Z""#,
            r#""2024-01-01 00:00:00Z""#,
            r#""2024-01-01T00:00:0xZ""#,
        ] {
            assert_eq!(read(json), Created::UNKNOWN, "{json}");
        }
        assert_eq!(Created::read(None), Created::UNKNOWN);
        assert_eq!(Created::UNKNOWN.to_string(), "creation time unknown");
    }
}
