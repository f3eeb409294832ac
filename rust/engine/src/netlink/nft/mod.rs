//! The nft backend over netlink, without a tool: what the kernel says, turned into observed state ([`Reader`]), and
//! what it is to do ([`Transactions`]).
//!
//! `iptables-nft-save` is quadratic in chains (a minute and more at 30,000 Services); the kernel's answers are not, if the
//! rules are asked for chain by chain. Here is everything about that conversation but the socket: a [`Reader`] says what
//! to ask and takes the answers, and any thread may drive it while the engine works.
//!
//! ```text
//! generation? ─► chains? ─► rules of each chain? ─► generation?  ─► the same as at first: read
//! ```
//!
//! A rule in one of our chains that is not known to the last bit is an error, not a difference ([`ReadError::NotUnderstood`]):
//! a newer iptables may write what we know in a new way, and only its own tools can tell then. Of a rule in somebody
//! else's chain, where it leads is enough, unless it could be one of our hooks.
//!
//! Memory: one chain's rules are digested as they come; what stays is a digest a chain.

mod decode;
mod describe;
mod encode;
mod messages;
mod reader;
mod transactions;

pub use reader::{ReadError, Reader, Step};
pub use transactions::{NotEncodable, Transaction, Transactions};

#[cfg(test)]
mod tests;
