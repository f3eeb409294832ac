//! The text form of rules, as `iptables-save` prints it: [`mod@print`] writes it, [`parse`] reads it back.

pub(crate) mod lines;
pub(crate) mod parse;
pub(crate) mod print;

mod words;

#[cfg(test)]
mod tests;
