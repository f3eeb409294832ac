//! What one plan writes and deletes, before it is text of any particular kind.
//!
//! Chains are offered as typed rules; each is rendered once into a buffer of its table and digested there, whether or not
//! it turns out to be needed. `restore` puts the pieces in order; another way to write would do so in its own way.

use std::ops::Range;

use crate::address::Family;
use crate::claims::Claim;
use crate::digest::{Digest, Digester};
use crate::hooks::Hook;
use crate::names::{ChainId, FixedChain, Table};
use crate::rule::{Rule, Target};
use crate::ruleset::rank_key;

/// A chain with all its rules, as `-A` lines in its table's buffer.
#[derive(Debug)]
pub(crate) struct WrittenChain {
    pub(crate) id: ChainId,
    pub(crate) rules: Range<usize>,
    /// How many these are.
    pub(crate) count: usize,
    /// Which service port it came with, in the order of rendering.
    pub(crate) port: usize,
}

/// A part of a dispatch chain's tree, as `-A` lines in its table's buffer.
#[derive(Debug)]
pub(crate) struct WrittenPart {
    pub(crate) id: ChainId,
    /// Distance from the root, in nibbles: whoever jumps here has less.
    pub(crate) depth: u8,
    pub(crate) rules: Range<usize>,
    /// How many these are.
    pub(crate) count: usize,
}

/// One rule of a dispatch chain.
#[derive(Debug)]
pub(crate) struct DispatchLine {
    pub(crate) rule: Range<usize>,
    pub(crate) target: Option<ChainId>,
    /// Lines with the same key must keep their order.
    pub(crate) key: Option<Claim>,
}

/// A dispatch chain: its rules arrive port by port, among those of others.
#[derive(Debug)]
pub(crate) struct DispatchChain {
    pub(crate) chain: FixedChain,
    pub(crate) lines: Vec<DispatchLine>,
    /// What must stay behind all of them.
    pub(crate) tail: Vec<Range<usize>>,
}

/// One table's part.
#[derive(Debug, Default)]
pub(crate) struct TableWrites {
    pub(crate) text: Vec<u8>,
    pub(crate) chains: Vec<WrittenChain>,
    pub(crate) parts: Vec<WrittenPart>,
    pub(crate) dispatch: Vec<DispatchChain>,
    /// `-I` lines.
    pub(crate) hooks: Vec<u8>,
    /// Where these are, once they stand in `text`.
    pub(crate) hook_lines: Range<usize>,
    pub(crate) deletions: Vec<ChainId>,
    /// KUBE-FIREWALL is known to be missing. (Declaring it while it exists would empty kubelet's chain.)
    pub(crate) creates_firewall: bool,
}

impl TableWrites {
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
            && self.parts.is_empty()
            && self.dispatch.is_empty()
            && self.hooks.is_empty()
            && self.hook_lines.is_empty()
            && self.deletions.is_empty()
            && !self.creates_firewall
    }

    /// Rules of dispatch chains.
    pub(crate) fn lines(&self) -> usize {
        self.dispatch.iter().map(|d| d.lines.len() + d.tail.len()).sum()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Writes<'a> {
    family: Family,
    digester: &'a Digester,
    pub(crate) tables: [TableWrites; 3],
    /// Rules in chains of ours, by table.
    pub(crate) rules: [usize; 3],
    /// Service ports so far.
    ports: usize,
}

impl<'a> Writes<'a> {
    pub(crate) fn new(family: Family, digester: &'a Digester) -> Self {
        Self { family, digester, tables: Default::default(), rules: [0; 3], ports: 0 }
    }

    fn table(&mut self, table: Table) -> &mut TableWrites {
        &mut self.tables[table as usize]
    }

    /// Nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.iter().all(TableWrites::is_empty)
    }

    /// What follows are another service port's chains.
    pub(crate) const fn next_port(&mut self) -> &mut Self {
        self.ports += 1;
        self
    }

    /// Render a chain and keep it if `keep` says so of its digest.
    pub(crate) fn chain(&mut self, id: ChainId, rules: &[Rule], keep: impl FnOnce(Digest) -> bool) {
        let (family, digester, port) = (self.family, self.digester, self.ports);
        let table = self.table(id.table());
        let start = table.text.len();
        for rule in rules {
            append(family, id, rule, &mut table.text);
        }
        if keep(digester.text(&table.text[start..])) {
            let rules_end = table.text.len();
            table.chains.push(WrittenChain { id, rules: start..rules_end, count: rules.len(), port });
            self.rules[id.table() as usize] += rules.len();
        } else {
            table.text.truncate(start);
        }
    }

    /// A part of a dispatch chain that has to be written.
    pub(crate) fn part(&mut self, id: ChainId, depth: u8, rules: &[Rule]) {
        let family = self.family;
        let table = self.table(id.table());
        let start = table.text.len();
        for rule in rules {
            append(family, id, rule, &mut table.text);
        }
        let end = table.text.len();
        table.parts.push(WrittenPart { id, depth, rules: start..end, count: rules.len() });
        self.rules[id.table() as usize] += rules.len();
    }

    /// Begin a dispatch chain; its digest is known already.
    pub(crate) fn open(&mut self, chain: FixedChain) {
        self.table(chain.table()).dispatch.push(DispatchChain { chain, lines: Vec::new(), tail: Vec::new() });
    }

    /// One more rule of a dispatch chain, if it was opened.
    pub(crate) fn dispatch(&mut self, chain: FixedChain, rule: &Rule) {
        if let Some((written, range)) = self.dispatch_text(chain, rule) {
            let target = match rule.target {
                Some(Target::Jump(to)) => Some(to),
                _ => None,
            };
            written.lines.push(DispatchLine { rule: range, target, key: rank_key(chain.table(), rule) });
        }
    }

    /// A rule that ends an opened dispatch chain.
    pub(crate) fn dispatch_tail(&mut self, chain: FixedChain, rule: &Rule) {
        if let Some((written, range)) = self.dispatch_text(chain, rule) {
            written.tail.push(range);
        }
    }

    fn dispatch_text(&mut self, chain: FixedChain, rule: &Rule) -> Option<(&mut DispatchChain, Range<usize>)> {
        let family = self.family;
        let TableWrites { text, dispatch, .. } = &mut self.tables[chain.table() as usize];
        let written = dispatch.iter_mut().find(|d| d.chain == chain)?;
        let start = text.len();
        append(family, ChainId::Fixed(chain), rule, text);
        self.rules[chain.table() as usize] += 1;
        Some((written, start..text.len()))
    }

    /// Insert a hook at the top of its chain.
    pub(crate) fn hook(&mut self, hook: &Hook) {
        let family = self.family;
        let hooks = &mut self.table(hook.table).hooks;
        hooks.extend_from_slice(b"-I ");
        hooks.extend_from_slice(hook.chain.as_bytes());
        hook.rule.write_to(family, hooks);
        hooks.push(b'\n');
    }

    /// Create KUBE-FIREWALL.
    pub(crate) fn create_firewall(&mut self) {
        self.table(Table::Filter).creates_firewall = true;
    }

    /// Delete a chain.
    pub(crate) fn delete(&mut self, id: ChainId) {
        self.table(id.table()).deletions.push(id);
    }

    /// Every chain written.
    pub(crate) fn written(&self) -> Vec<ChainId> {
        let one = |t: &TableWrites| {
            let dispatch = t.dispatch.iter().map(|d| ChainId::Fixed(d.chain));
            t.chains.iter().map(|c| c.id).chain(t.parts.iter().map(|p| p.id)).chain(dispatch).collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(one).collect()
    }

    /// Every chain deleted.
    pub(crate) fn deleted(&self) -> Vec<ChainId> {
        self.tables.iter().flat_map(|t| t.deletions.iter().copied()).collect()
    }
}

/// `-A CHAIN rule`, newline at its end: the line that digests are taken of, here and in `readback`.
pub(crate) fn append(family: Family, id: ChainId, rule: &Rule, out: &mut Vec<u8>) {
    out.extend_from_slice(b"-A ");
    id.write_name(out);
    rule.write_to(family, out);
    out.push(b'\n');
}
