//! A plan: bytes for exactly the chains that differ, and a token by which its outcome is reported.

use crate::address::Family;

/// Immutable; ends with `Engine::commit` or `Engine::abandon`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whose rules.
    pub family: Family,
    /// Grows by one with every plan of the family; a plan of another generation than the one in flight is refused.
    pub generation: u64,
    /// Text for `iptables-restore --noflush`.
    pub payload: Vec<u8>,
    /// `table CHAIN`, sorted.
    pub chains_written: Vec<String>,
    /// Likewise.
    pub chains_deleted: Vec<String>,
    /// Rules put into built-in chains.
    pub hooks_inserted: Vec<String>,
    /// Rules in the text, hooks aside.
    pub rules_written: usize,
    /// Rules in the text by table: filter, nat, mangle.
    pub rules_by_table: [usize; 3],
    /// Transactions the text is cut into.
    pub blocks: usize,
    /// The kernel held nothing of ours before.
    pub full: bool,
}
