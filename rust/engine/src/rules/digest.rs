//! Digests that identify a chain's content: keyed, 128 bits, computed from the rules as the kernel prints them.
//!
//! There are two kinds, because order matters in some chains and not in others:
//! - an *ordered* chain's digest is the digest of its text;
//! - a *dispatch* chain's digest is the sum of its rules' digests. Rules of different Services may appear in any order
//!   (kube-proxy writes them in random order), so equivalent chains compare equal, and a change of one Service costs
//!   one subtraction and one addition instead of a pass over the chain.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::model::names::ChainId;

/// Returns whether the chain's digest is the sum of its rules' digests: a dispatch chain, or a chain of a dispatch
/// tree.
pub(crate) const fn is_order_free(chain: ChainId) -> bool {
    match chain {
        ChainId::Fixed(chain) => chain.is_dispatch(),
        ChainId::Dispatch(..) => true,
        ChainId::Hashed(..) | ChainId::Balance(_) => false,
    }
}

/// The digest of a chain or a rule. Digests of sets are wrapping sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(u128);

impl Digest {
    pub(crate) const EMPTY_SET: Self = Self(0);

    pub(crate) fn add(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}

/// Computes digests with one key.
#[derive(Clone, Debug)]
pub(crate) struct Digester {
    key: [u8; 16],
}

impl Digester {
    pub(crate) const fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// Returns the digest of an ordered chain, from the text of its rules.
    pub(crate) fn text(&self, text: &[u8]) -> Digest {
        let mut hasher = self.stream();
        hasher.update(text);
        hasher.finish()
    }

    /// Returns a hasher that computes [`Digester::text`] from pieces.
    pub(crate) fn stream(&self) -> TextHasher {
        TextHasher(SipHasher13::new_with_key(&self.key))
    }

    /// Returns the digest of one rule of a dispatch chain, without the chain's name, so that a rule keeps its digest
    /// when it moves between the chains of a tree. `rank` counts earlier rules that match the same packet: among those,
    /// order matters.
    pub(crate) fn ranked(&self, rank: u32, rule: &[u8]) -> Digest {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u32(rank);
        hasher.write(rule);
        Digest(hasher.finish128().as_u128())
    }
}

/// Computes the digest of an ordered chain from pieces of its text.
#[derive(Clone, Debug)]
pub(crate) struct TextHasher(SipHasher13);

impl TextHasher {
    pub(crate) fn update(&mut self, text: &[u8]) {
        self.0.write(text);
    }

    pub(crate) fn finish(&self) -> Digest {
        Digest(self.0.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_digests_forget_order_but_not_rank() {
        let d = Digester::new([7; 16]);
        let sum = |parts: &[Digest]| {
            let mut s = Digest::EMPTY_SET;
            for &part in parts {
                s.add(part);
            }
            s
        };
        let (a, b) = (d.ranked(0, b"a"), d.ranked(0, b"b"));
        assert_eq!(sum(&[a, b]), sum(&[b, a]));
        assert_ne!(sum(&[a, b]), sum(&[a, d.ranked(1, b"b")]));
        assert_ne!(sum(&[a, a]), sum(&[a]));
        let mut back = sum(&[a, b]);
        back.subtract(b);
        assert_eq!(back, a);
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let d = Digester::new([3; 16]);
        let mut stream = d.stream();
        for piece in [&b"-A X -j"[..], b"", b" DROP\n-", b"A X\n"] {
            stream.update(piece);
        }
        assert_eq!(stream.finish(), d.text(b"-A X -j DROP\n-A X\n"));
    }

    #[test]
    fn the_key_matters() {
        assert_ne!(Digester::new([0; 16]).text(b"x"), Digester::new([1; 16]).text(b"x"));
    }
}
