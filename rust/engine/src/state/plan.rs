//! A plan: restore text for exactly the chains that differ, and a generation by which its outcome is reported.

use std::sync::Arc;

use crate::model::address::Family;
use crate::model::names::ChainId;
use crate::options::WriteStrategy;
use crate::write::restore_text::RestoreText;

/// A plan is completed by `Engine::commit` or `Engine::abandon`. Its text can be taken before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The family whose rules the plan changes.
    pub family: Family,
    /// Incremented with every plan of the family. An outcome of another generation than the plan in flight is rejected.
    pub generation: u64,
    /// The input of `iptables-restore --noflush` or of [`crate::netlink::nft::Transactions`].
    pub text: RestoreText,
    /// The write strategy for which the text was split.
    pub write_strategy: WriteStrategy,
    /// Chains that the plan writes, in no particular order.
    pub written: Arc<[ChainId]>,
    /// Chains that the plan deletes, in no particular order.
    pub deleted: Arc<[ChainId]>,
    /// Entry jumps that the plan inserts into base chains.
    pub entry_jumps_inserted: Vec<String>,
    /// Number of rules in the text, without entry jumps.
    pub rules_written: usize,
    /// Number of rules in the text by table: filter, nat, mangle.
    pub rules_by_table: [usize; 3],
    /// The kernel held none of ferrule's chains before this plan, or before the first stage that it follows.
    pub full: bool,
    /// Whether the plan is a first stage: the sync is complete only when the next plan, which holds the rest, is
    /// written too.
    pub more: bool,
}

impl Plan {
    /// Returns a copy of the whole text.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        self.text.to_vec()
    }

    /// Returns `table CHAIN` of each chain written, sorted. Built on request: a full plan of a large cluster has
    /// hundreds of thousands.
    #[must_use]
    pub fn chains_written(&self) -> Vec<String> {
        names(&self.written)
    }

    /// Returns `table CHAIN` of each chain deleted, sorted.
    #[must_use]
    pub fn chains_deleted(&self) -> Vec<String> {
        names(&self.deleted)
    }
}

fn names(chains: &[ChainId]) -> Vec<String> {
    let mut names: Vec<String> = chains.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names
}
