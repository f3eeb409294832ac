//! The nft backend over netlink: [`Reader`] reads the observed state, [`Transactions`] encodes writes.
//!
//! `iptables-nft-save` takes time quadratic in chains (a minute and more at 30,000 Services). A netlink dump does not,
//! if rules are requested per chain. This module implements the conversation without the socket: a [`Reader`] returns
//! requests and takes responses, and any thread may drive it while the engine works.
//!
//! ```text
//! generation? ─► chains? ─► rules of each chain? ─► generation?  ─► the same as at first: read
//! ```
//!
//! A rule in one of ferrule's chains that is not fully understood is an error, not a difference
//! ([`ReadError::NotUnderstood`]): a newer iptables may use a new form for a known rule, and then only its own tools
//! can decode it. For a rule in a foreign chain the target is sufficient, unless it could be an entry jump.
//!
//! Memory: rules are digested as they arrive; one digest per chain is kept.

mod decode;
mod describe;
mod encode;
mod messages;
mod reader;
mod transactions;

pub use reader::{ReadError, ReadStep, Reader};
pub use transactions::{NotEncodable, Transaction, Transactions};

#[cfg(test)]
mod tests;
