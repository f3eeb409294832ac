//! Names of service ports and of the chains derived from them, in kube-proxy's scheme, so that each program recognises
//! the other's chains.

mod chains;
mod hash;
mod port_name;

pub(crate) use chains::{BALANCE_LEVELS, NAME_LIMIT};
pub use chains::{ChainId, FixedChain, Prefix, Table};
pub use hash::NameHash;
pub use port_name::{PortName, Protocol};

#[cfg(test)]
mod tests;
