//! What a restore text consists of, and why it is cut as it is.

use std::fmt;

use crate::model::names::Table;

/// The content of consecutive blocks of one kind, for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Table.
    pub table: Table,
    /// Which part of the write.
    pub name: &'static str,
    /// Transactions.
    pub blocks: usize,
    /// Chains declared, those to be deleted included.
    pub chains: usize,
    /// Rules, hooks included.
    pub rules: usize,
    /// Bytes of text.
    pub bytes: usize,
}

/// Why a text is cut as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// One block a table: so few chains that cutting gains nothing.
    #[default]
    Small,
    /// One block a table: the tool swaps the whole table at every COMMIT.
    WholeTable,
    /// Several blocks in a table that names so many chains.
    Ordered {
        /// Where.
        table: Table,
        /// Chains written, deleted, or jumped to from elsewhere.
        names: usize,
        /// With more than this, it is cut.
        limit: usize,
        /// For the kernel alone, where only others' waiting is the reason.
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
