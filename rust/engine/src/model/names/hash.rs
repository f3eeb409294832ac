//! The hash that chain names carry.

use sha2::{Digest as _, Sha256};

/// The 80 bits of SHA-256 that a chain name carries: 16 base32 characters are exactly 10 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameHash(pub(super) [u8; 10]);

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

impl NameHash {
    pub(super) fn of(parts: &[&str]) -> Self {
        Self::of_bytes(parts.iter().map(|part| part.as_bytes()))
    }

    pub(super) fn of_bytes<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut sha = Sha256::new();
        parts.for_each(|part| sha.update(part));
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&sha.finalize()[..10]);
        Self(bytes)
    }

    pub(super) fn to_base32(self) -> [u8; 16] {
        let mut out = [0; 16];
        for (half, five) in self.0.chunks_exact(5).enumerate() {
            let bits = five.iter().fold(0u64, |acc, &b| acc << 8 | u64::from(b));
            for i in 0..8 {
                let digit = bits >> (35 - 5 * i) & 31;
                out[half * 8 + i] = BASE32[usize::try_from(digit).unwrap_or(0)];
            }
        }
        out
    }

    /// Clears the last digit, for names whose longer prefix leaves room for fifteen.
    pub(super) fn short(mut self) -> Self {
        self.0[9] &= 0b1110_0000;
        self
    }

    pub(super) fn from_short(text: &[u8]) -> Option<Self> {
        Self::from_base32(&[text, b"A"].concat())
    }

    pub(super) fn from_base32(text: &[u8]) -> Option<Self> {
        if text.len() != 16 {
            return None;
        }
        let mut bytes = [0; 10];
        for (half, eight) in text.chunks_exact(8).enumerate() {
            let mut bits = 0u64;
            for &c in eight {
                let digit = match c {
                    b'A'..=b'Z' => c - b'A',
                    b'2'..=b'7' => c - b'2' + 26,
                    _ => return None,
                };
                bits = bits << 5 | u64::from(digit);
            }
            bytes[half * 5..half * 5 + 5].copy_from_slice(&bits.to_be_bytes()[3..]);
        }
        Some(Self(bytes))
    }

    /// Returns the nibble at an index, most significant first.
    pub(crate) const fn nibble(self, at: usize) -> u8 {
        if at.is_multiple_of(2) { self.0[at / 2] >> 4 } else { self.0[at / 2] & 15 }
    }
}
