//! Names of network interfaces.

/// An interface name; a trailing `+` is a wildcard. At most 15 bytes (the kernel's IFNAMSIZ), without blanks or quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface(Box<str>);

impl Interface {
    /// Returns `None` if the name is not a valid interface name.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=15).contains(&name.len()) && name != "+";
        let plain = name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'/' | b'!'));
        (fits && plain && !name.starts_with('-')).then(|| Self(name.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_words_of_fifteen() {
        for bad in ["", "+", "sixteen-letters-", "a b", "a\"b", "eth0\n", "-i", "ä", "a/b"] {
            assert_eq!(Interface::new(bad), None, "{bad:?}");
        }
        assert!(Interface::new("cali+").is_some());
    }
}
