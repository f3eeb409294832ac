//! Computes which chains must be written or deleted: desired state against applied state, the latter known from
//! confirmed plans or from an observation of the kernel.
//!
//! ```text
//!          desired                 applied (what we know the kernel to hold)
//!      ┌──────────────┬───────────────────────┬──────────────┐
//!      │   to create  │ same digest: nothing  │    stale:    │
//!      │              │ other digest: rewrite │    delete,   │
//!      │              │ unknown: rewrite      │ held: empty  │
//!      └──────────────┴───────────────────────┴──────────────┘
//! ```
//!
//! A chain that a foreign rule references ("held") cannot be deleted. A held stale chain is emptied instead, so that the
//! chains it jumped to can be deleted. It is deleted once an observation shows that the reference is gone.
//!
//! This is a pure data structure: it records what is applied and writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use crate::model::names::ChainId;
use crate::rules::digest::{Digest, Digester, is_order_free};

/// The assumed state of a chain in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    Rules(Digest),
    /// A write with an unknown outcome affected the chain.
    Unknown,
}

/// Desired and applied digests of one family's chains.
#[derive(Debug)]
pub(crate) struct Delta {
    desired: HashMap<ChainId, Digest>,
    applied: HashMap<ChainId, Applied>,
    /// Applied chains that are not desired, kept up to date.
    stale: BTreeSet<ChainId>,
    /// Chains that foreign rules reference, each with the foreign chain of one such rule. The kernel refuses to delete
    /// them.
    held: BTreeMap<ChainId, Box<str>>,
    /// Digest of an ordered chain without rules.
    empty: Digest,
}

/// How an observation differs from the applied state.
#[derive(Debug, Default)]
pub(crate) struct Drift {
    pub(crate) differing: Vec<ChainId>,
    pub(crate) missing: Vec<ChainId>,
}

impl Delta {
    pub(crate) fn new(digester: &Digester) -> Self {
        Self {
            desired: HashMap::new(),
            applied: HashMap::new(),
            stale: BTreeSet::new(),
            held: BTreeMap::new(),
            empty: digester.text(b""),
        }
    }

    /// Sets the desired digest of a chain.
    pub(crate) fn want(&mut self, chain: ChainId, digest: Digest) {
        self.desired.insert(chain, digest);
        self.stale.remove(&chain);
    }

    /// Removes a chain from the desired state.
    pub(crate) fn unwant(&mut self, chain: ChainId) {
        self.desired.remove(&chain);
        if self.applied.contains_key(&chain) {
            self.stale.insert(chain);
        }
    }

    /// Returns whether a desired chain must be written.
    pub(crate) fn differs(&self, chain: ChainId) -> bool {
        match (self.desired.get(&chain), self.applied.get(&chain)) {
            (Some(want), Some(Applied::Rules(have))) => want != have,
            (Some(_), _) => true,
            (None, _) => false,
        }
    }

    /// Returns the chains to delete.
    pub(crate) fn deletable(&self) -> impl Iterator<Item = ChainId> {
        self.stale.iter().copied().filter(|c| !self.held.contains_key(c))
    }

    /// Returns the stale chains that cannot be deleted, each with the foreign chain whose rule references it.
    pub(crate) fn held(&self) -> impl Iterator<Item = (ChainId, &str)> {
        self.held.iter().filter(|(chain, _)| self.stale.contains(*chain)).map(|(&chain, by)| (chain, &**by))
    }

    /// Returns the stale chains that cannot be deleted and may still have rules.
    pub(crate) fn to_empty(&self) -> impl Iterator<Item = ChainId> {
        let is_empty = |chain| self.applied.get(&chain) == Some(&Applied::Rules(self.empty_digest(chain)));
        self.held().map(|(chain, _)| chain).filter(move |&chain| !is_empty(chain))
    }

    const fn empty_digest(&self, chain: ChainId) -> Digest {
        if is_order_free(chain) { Digest::EMPTY_SET } else { self.empty }
    }

    pub(crate) fn stale(&self) -> &BTreeSet<ChainId> {
        &self.stale
    }

    pub(crate) fn is_held(&self, chain: ChainId) -> bool {
        self.held.contains_key(&chain)
    }

    /// Returns whether the kernel holds none of ferrule's chains.
    pub(crate) fn nothing_applied(&self) -> bool {
        self.applied.is_empty()
    }

    /// Returns the numbers of desired, applied and stale chains.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (self.desired.len(), self.applied.len(), self.stale.len())
    }

    /// Records that a write of these chains succeeded. Their desired digests are the ones that were written, because
    /// they do not change between a plan and its outcome. A written chain that is not desired was emptied.
    pub(crate) fn commit(&mut self, written: &[ChainId], deleted: &[ChainId]) {
        for &chain in written {
            let digest = self.desired.get(&chain).copied().unwrap_or_else(|| self.empty_digest(chain));
            self.applied.insert(chain, Applied::Rules(digest));
        }
        for &chain in deleted {
            self.applied.remove(&chain);
            self.stale.remove(&chain);
        }
    }

    /// Records that the outcome of a write of these chains is unknown; it may have happened completely or for some
    /// tables.
    pub(crate) fn abandon(&mut self, written: &[ChainId], deleted: &[ChainId]) {
        for &chain in written.iter().chain(deleted) {
            self.applied.insert(chain, Applied::Unknown);
        }
    }

    /// Replaces the applied state by an observation.
    pub(crate) fn observe(&mut self, seen: HashMap<ChainId, Digest>, held: BTreeMap<ChainId, Box<str>>) -> Drift {
        let mut drift = Drift::default();
        let mut applied = HashMap::with_capacity(seen.len());
        let mut stale = BTreeSet::new();
        #[allow(clippy::iter_over_hash_type)] // everything collected here is sorted before it is returned
        for (chain, digest) in seen {
            match self.applied.get(&chain) {
                Some(Applied::Rules(believed)) if *believed != digest => drift.differing.push(chain),
                _ => {}
            }
            if !self.desired.contains_key(&chain) {
                stale.insert(chain);
            }
            applied.insert(chain, Applied::Rules(digest));
        }
        drift.missing.extend(self.applied.keys().filter(|c| !applied.contains_key(*c)));
        drift.differing.sort_unstable();
        drift.missing.sort_unstable();
        self.applied = applied;
        self.stale = stale;
        self.held = held;
        drift
    }
}

#[cfg(test)]
mod tests;
