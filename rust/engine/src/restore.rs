//! Chains into `iptables-restore` text: declare, fill, hook, delete, commit; one block a table.
//!
//! Everything a block refers to is declared at its head (a declaration creates the chain or empties it; either takes
//! effect only at COMMIT), so order inside a block is free. Deletions come last, after the rules that pointed there
//! are gone. Tables are independent transactions, filter first (see [`Table`]).

use crate::address::Family;
use crate::digest::{Digest, Digester};
use crate::hooks::{FIREWALL, Hook};
use crate::names::{ChainId, Table};
use crate::rule::Rule;

/// One table's part of the text.
#[derive(Debug, Default)]
struct Block {
    declarations: Vec<u8>,
    rules: Vec<u8>,
    deletions: Vec<u8>,
}

/// Builds one restore text. Chains are offered with [`Self::chain`], which also digests them, so that each is rendered
/// once whether or not it turns out to be needed.
#[derive(Debug)]
pub(crate) struct RestoreBuilder<'a> {
    family: Family,
    digester: &'a Digester,
    blocks: [Block; 3],
    written: Vec<ChainId>,
    deleted: Vec<ChainId>,
    rules: usize,
}

/// A finished text and what it does.
#[derive(Debug, Default)]
pub(crate) struct RestoreText {
    pub(crate) bytes: Vec<u8>,
    pub(crate) written: Vec<ChainId>,
    pub(crate) deleted: Vec<ChainId>,
    pub(crate) rules: usize,
}

impl<'a> RestoreBuilder<'a> {
    pub(crate) fn new(family: Family, digester: &'a Digester) -> Self {
        Self { family, digester, blocks: Default::default(), written: Vec::new(), deleted: Vec::new(), rules: 0 }
    }

    fn block(&mut self, table: Table) -> &mut Block {
        &mut self.blocks[table as usize]
    }

    /// Render a chain and keep it if `keep` says so of its digest.
    pub(crate) fn chain(&mut self, id: ChainId, rules: &[Rule], keep: impl FnOnce(Digest) -> bool) {
        let (family, digester) = (self.family, self.digester);
        let block = self.block(id.table());
        let start = block.rules.len();
        for rule in rules {
            append(family, id, rule, &mut block.rules);
        }
        if keep(digester.text(&block.rules[start..])) {
            declare(id, &mut block.declarations);
            self.rules += rules.len();
            self.written.push(id);
        } else {
            block.rules.truncate(start);
        }
    }

    /// Begin a chain whose rules come one by one; its digest is known already.
    pub(crate) fn open(&mut self, id: ChainId) {
        declare(id, &mut self.block(id.table()).declarations);
        self.written.push(id);
    }

    /// One more rule of an opened chain.
    pub(crate) fn rule(&mut self, id: ChainId, rule: &Rule) {
        let family = self.family;
        append(family, id, rule, &mut self.block(id.table()).rules);
        self.rules += 1;
    }

    /// Insert a hook at the top of its chain.
    pub(crate) fn hook(&mut self, hook: &Hook) {
        let family = self.family;
        let rules = &mut self.block(hook.table).rules;
        rules.extend_from_slice(b"-I ");
        rules.extend_from_slice(hook.chain.as_bytes());
        hook.rule.write_to(family, rules);
        rules.push(b'\n');
    }

    /// Create KUBE-FIREWALL. Only when it is known to be missing: declaring it empties it.
    pub(crate) fn create_firewall(&mut self) {
        let declarations = &mut self.block(Table::Filter).declarations;
        declarations.extend_from_slice([":", FIREWALL, " - [0:0]\n"].concat().as_bytes());
    }

    /// Delete a chain. Declared first, so that deleting one that is already gone is no error.
    pub(crate) fn delete(&mut self, id: ChainId) {
        let block = self.block(id.table());
        declare(id, &mut block.declarations);
        block.deletions.extend_from_slice(b"-X ");
        id.write_name(&mut block.deletions);
        block.deletions.push(b'\n');
        self.deleted.push(id);
    }

    /// The whole text; nothing at all when no table has anything to say.
    pub(crate) fn finish(self) -> RestoreText {
        let size = self.blocks.iter().map(|b| b.declarations.len() + b.rules.len() + b.deletions.len() + 16).sum();
        let mut bytes = Vec::with_capacity(size);
        for (table, block) in Table::ALL.into_iter().zip(self.blocks) {
            if block.declarations.is_empty() && block.rules.is_empty() {
                continue;
            }
            bytes.push(b'*');
            bytes.extend_from_slice(table.name().as_bytes());
            bytes.push(b'\n');
            bytes.extend_from_slice(&block.declarations);
            bytes.extend_from_slice(&block.rules);
            bytes.extend_from_slice(&block.deletions);
            bytes.extend_from_slice(b"COMMIT\n");
        }
        RestoreText { bytes, written: self.written, deleted: self.deleted, rules: self.rules }
    }
}

fn declare(id: ChainId, out: &mut Vec<u8>) {
    out.push(b':');
    id.write_name(out);
    out.extend_from_slice(b" - [0:0]\n");
}

/// `-A CHAIN rule`, newline at its end: the line that digests are taken of, here and in `readback`.
pub(crate) fn append(family: Family, id: ChainId, rule: &Rule, out: &mut Vec<u8>) {
    out.extend_from_slice(b"-A ");
    id.write_name(out);
    rule.write_to(family, out);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::FixedChain;
    use crate::rule::Target;

    const CHAIN: ChainId = ChainId::Fixed(FixedChain::Forward);

    #[test]
    fn an_empty_text_is_empty() {
        let digester = Digester::new([0; 16]);
        let mut builder = RestoreBuilder::new(Family::V4, &digester);
        builder.chain(CHAIN, &[Rule::default().target(Target::Drop)], |_| false);
        let text = builder.finish();
        assert_eq!((text.bytes.len(), text.rules, text.written.len()), (0, 0, 0));
    }

    #[test]
    fn a_block_declares_fills_and_deletes() {
        let digester = Digester::new([0; 16]);
        let mut builder = RestoreBuilder::new(Family::V6, &digester);
        builder.delete(ChainId::Fixed(FixedChain::ProxyFirewall));
        builder.chain(CHAIN, &[Rule::default().target(Target::Reject)], |_| true);
        let text = builder.finish();
        let want = "*filter\n:KUBE-PROXY-FIREWALL - [0:0]\n:KUBE-FORWARD - [0:0]\n\
                    -A KUBE-FORWARD -j REJECT --reject-with icmp6-port-unreachable\n-X KUBE-PROXY-FIREWALL\nCOMMIT\n";
        assert_eq!(String::from_utf8(text.bytes).unwrap(), want);
        assert_eq!(text.rules, 1);
    }
}
