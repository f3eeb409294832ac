//! A plan: text for exactly the chains that differ, and a token by which its outcome is reported.

use std::sync::Arc;

use crate::model::address::Family;
use crate::model::names::ChainId;
use crate::options::WriteStrategy;
use crate::write::restore_text::RestoreText;

/// Ends with `Engine::commit` or `Engine::abandon`. Its text may be taken out before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whose rules.
    pub family: Family,
    /// Grows by one with every plan of the family; a plan of another generation than the one in flight is refused.
    pub generation: u64,
    /// For `iptables-restore --noflush`, or for [`crate::netlink::nft::Transactions`].
    pub text: RestoreText,
    /// For which way to write it was cut.
    pub write_strategy: WriteStrategy,
    /// Chains in it, in no particular order.
    pub written: Arc<[ChainId]>,
    /// Likewise.
    pub deleted: Arc<[ChainId]>,
    /// Rules put into built-in chains.
    pub hooks_inserted: Vec<String>,
    /// Rules in the text, hooks aside.
    pub rules_written: usize,
    /// Rules in the text by table: filter, nat, mangle.
    pub rules_by_table: [usize; 3],
    /// The kernel held nothing of ours before this plan, or before the first stage that it follows.
    pub full: bool,
    /// A first stage: nothing is settled before the next plan, which takes the rest, is written, too.
    pub more: bool,
}

impl Plan {
    /// The whole text: a copy.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        self.text.to_vec()
    }

    /// `table CHAIN` of each chain written, sorted. Made when asked for: a full plan of a large cluster has hundreds of
    /// thousands.
    #[must_use]
    pub fn chains_written(&self) -> Vec<String> {
        names(&self.written)
    }

    /// Likewise of those deleted.
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
