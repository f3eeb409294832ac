//! Summarises the content of a restore text, and why it is split as it is.

use std::fmt;

use crate::model::names::Table;

/// The content of consecutive blocks of one kind, for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// The table.
    pub table: Table,
    /// The kind of content.
    pub name: &'static str,
    /// Number of transactions.
    pub blocks: usize,
    /// Number of chains declared, including those to be deleted.
    pub chains: usize,
    /// Number of rules, including entry jumps.
    pub rules: usize,
    /// Size of the text in bytes.
    pub bytes: usize,
}

/// Why a text is split as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// One block per table: so few chains that splitting gains nothing.
    #[default]
    Small,
    /// One block per table: the tool replaces the whole table at every COMMIT.
    WholeTable,
    /// Several blocks, for a table with many names.
    Ordered {
        /// The table that is split.
        table: Table,
        /// Number of chains written, deleted, or referenced from other chains.
        names: usize,
        /// The number of names above which the table is split.
        limit: usize,
        /// Whether the text is written over netlink, where only the waiting of other processes is the reason.
        netlink: bool,
    },
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small => f.write_str("one block a table: the write is small"),
            Self::WholeTable => f.write_str("one block a table: legacy swaps the whole table at every COMMIT"),
            Self::Ordered { table, names, limit, netlink } => {
                let (what, why) =
                    if *netlink { ("transactions", "others wait too long") } else { ("blocks", "nft is quadratic") };
                write!(f, "ordered {what}: {} names {names} chains; above {limit}, {why}", table.name())
            }
        }
    }
}
