//! The changes of one plan: chains to write and to delete, rendered but not yet put in order.
//!
//! A chain arrives as typed rules, is rendered once into a buffer of its table and digested there; the caller decides by
//! the digest whether it is kept. [`batches`](crate::write::batches) puts the pieces in order.

use std::ops::Range;

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, Table};
use crate::rules::digest::{Digest, Digester};
use crate::rules::entry_jumps::EntryJump;
use crate::rules::rule::Rule;
use crate::rules::ruleset::rank_key;
use crate::rules::save_format::print::append_line;
use crate::write::rendered_rules::{RenderedRules, jump_of};

/// A chain with all its rules, as `-A` lines in its table's buffer.
#[derive(Debug)]
pub(crate) struct WrittenChain {
    pub(crate) id: ChainId,
    pub(crate) rules: Range<usize>,
    /// Number of rules.
    pub(crate) count: usize,
    /// Index of the service port it belongs to, in the order of rendering.
    pub(crate) port: usize,
}

/// A chain of a dispatch tree, as `-A` lines in its table's buffer.
#[derive(Debug)]
pub(crate) struct WrittenTreeChain {
    pub(crate) id: ChainId,
    /// Distance from the root, in nibbles. A chain that jumps here has a smaller one.
    pub(crate) depth: u8,
    pub(crate) rules: Range<usize>,
    /// Number of rules.
    pub(crate) count: usize,
}

/// One rule of a dispatch chain.
#[derive(Debug)]
pub(crate) struct WrittenDispatchRule {
    pub(crate) rule: Range<usize>,
    pub(crate) target: Option<ChainId>,
    /// Rules with the same key must keep their order.
    pub(crate) key: Option<Claim>,
}

/// A dispatch chain. Its rules arrive port by port, interleaved with those of other chains.
#[derive(Debug)]
pub(crate) struct WrittenDispatchChain {
    pub(crate) chain: FixedChain,
    pub(crate) rules: Vec<WrittenDispatchRule>,
    /// Rules that must come last.
    pub(crate) tail: Vec<Range<usize>>,
}

/// The changes of one table.
#[derive(Debug, Default)]
pub(crate) struct TableChanges {
    pub(crate) text: Vec<u8>,
    pub(crate) chains: Vec<WrittenChain>,
    pub(crate) tree_chains: Vec<WrittenTreeChain>,
    pub(crate) dispatch: Vec<WrittenDispatchChain>,
    /// `-I` lines.
    pub(crate) entry_jumps: Vec<u8>,
    /// Range of the `-I` lines once they were appended to `text`.
    pub(crate) entry_jump_lines: Range<usize>,
    /// Stale chains that must lose their rules but cannot be deleted.
    pub(crate) emptied: Vec<ChainId>,
    pub(crate) deletions: Vec<ChainId>,
    /// KUBE-FIREWALL is known to be missing. (Declaring it while it exists would empty kubelet's chain.)
    pub(crate) creates_firewall: bool,
}

impl TableChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
            && self.tree_chains.is_empty()
            && self.dispatch.is_empty()
            && self.entry_jumps.is_empty()
            && self.entry_jump_lines.is_empty()
            && self.emptied.is_empty()
            && self.deletions.is_empty()
            && !self.creates_firewall
    }

    /// Appends a rule to the tree chain that was opened last.
    fn append_tree_rule(&mut self, write: impl FnOnce(ChainId, &mut Vec<u8>)) {
        let Some(part) = self.tree_chains.last_mut() else { return };
        write(part.id, &mut self.text);
        part.rules.end = self.text.len();
        part.count += 1;
    }

    /// Appends a rule to a dispatch chain. Returns the chain and the appended range, or `None` if it was not opened.
    fn append_dispatch_rule(
        &mut self,
        chain: FixedChain,
        write: impl FnOnce(ChainId, &mut Vec<u8>),
    ) -> Option<(&mut WrittenDispatchChain, Range<usize>)> {
        let written = self.dispatch.iter_mut().find(|d| d.chain == chain)?;
        let start = self.text.len();
        write(ChainId::Fixed(chain), &mut self.text);
        Some((written, start..self.text.len()))
    }

    /// Returns the number of rules in dispatch chains.
    pub(crate) fn dispatch_rules(&self) -> usize {
        self.dispatch.iter().map(|d| d.rules.len() + d.tail.len()).sum()
    }
}

/// All changes of one plan.
#[derive(Debug)]
pub(crate) struct Changeset<'a> {
    family: Family,
    digester: &'a Digester,
    pub(crate) tables: [TableChanges; 3],
    /// Number of rules in our own chains, by table.
    pub(crate) rules: [usize; 3],
    /// Number of service ports rendered so far.
    ports: usize,
    /// Dispatch rules that were rendered to learn their digests.
    pub(crate) rendered: RenderedRules,
}

impl<'a> Changeset<'a> {
    pub(crate) fn new(family: Family, digester: &'a Digester) -> Self {
        Self {
            family,
            digester,
            tables: Default::default(),
            rules: [0; 3],
            ports: 0,
            rendered: RenderedRules::default(),
        }
    }

    fn table(&mut self, table: Table) -> &mut TableChanges {
        &mut self.tables[table as usize]
    }

    /// Returns whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.iter().all(TableChanges::is_empty)
    }

    /// Begins the chains of the next service port.
    pub(crate) const fn next_port(&mut self) -> &mut Self {
        self.ports += 1;
        self
    }

    /// Renders a chain and keeps it if `keep` returns true for its digest.
    pub(crate) fn chain(&mut self, id: ChainId, rules: &[Rule], keep: impl FnOnce(Digest) -> bool) {
        let (family, digester, port) = (self.family, self.digester, self.ports);
        let table = self.table(id.table());
        let start = table.text.len();
        for rule in rules {
            append_line(family, id, rule, &mut table.text);
        }
        if keep(digester.text(&table.text[start..])) {
            let rules_end = table.text.len();
            table.chains.push(WrittenChain { id, rules: start..rules_end, count: rules.len(), port });
            self.rules[id.table() as usize] += rules.len();
        } else {
            table.text.truncate(start);
        }
    }

    /// Begins a chain of a dispatch tree.
    pub(crate) fn open_tree_chain(&mut self, id: ChainId, depth: u8) {
        let table = self.table(id.table());
        let start = table.text.len();
        table.tree_chains.push(WrittenTreeChain { id, depth, rules: start..start, count: 0 });
    }

    /// Appends a rule to the tree chain that was opened last.
    pub(crate) fn tree_rule(&mut self, table: Table, rule: &Rule) {
        let family = self.family;
        self.table(table).append_tree_rule(|id, out| append_line(family, id, rule, out));
        self.rules[table as usize] += 1;
    }

    /// Appends a rule that was rendered before, by its digest. Returns false if it was not.
    pub(crate) fn tree_rule_rendered(&mut self, table: Table, digest: Digest) -> bool {
        let Self { rendered, tables, rules, .. } = self;
        let Some(rule) = rendered.get(digest) else { return false };
        tables[table as usize].append_tree_rule(|id, out| append_text(id, rendered.text(rule), out));
        rules[table as usize] += 1;
        true
    }

    /// Begins a dispatch chain.
    pub(crate) fn open(&mut self, chain: FixedChain) {
        self.table(chain.table()).dispatch.push(WrittenDispatchChain { chain, rules: Vec::new(), tail: Vec::new() });
    }

    /// Appends a rule to a dispatch chain, if it was opened.
    pub(crate) fn dispatch(&mut self, chain: FixedChain, rule: &Rule) {
        let (family, table) = (self.family, chain.table());
        let written = self.table(table).append_dispatch_rule(chain, |id, out| append_line(family, id, rule, out));
        if let Some((written, rule_text)) = written {
            let key = rank_key(table, Claim::of_rule(rule));
            written.rules.push(WrittenDispatchRule { rule: rule_text, target: jump_of(rule), key });
            self.rules[table as usize] += 1;
        }
    }

    /// Appends a rule that was rendered before, by its digest.
    pub(crate) fn dispatch_rule_rendered(&mut self, chain: FixedChain, key: Claim, digest: Digest) {
        let Self { rendered, tables, rules, .. } = self;
        let table = chain.table();
        let Some(rule) = rendered.get(digest) else { return };
        let written =
            tables[table as usize].append_dispatch_rule(chain, |id, out| append_text(id, rendered.text(rule), out));
        if let Some((written, rule_text)) = written {
            let key = rank_key(table, Some(key));
            written.rules.push(WrittenDispatchRule { rule: rule_text, target: rule.target, key });
            rules[table as usize] += 1;
        }
    }

    /// Appends a rule that must come last in a dispatch chain.
    pub(crate) fn dispatch_tail(&mut self, chain: FixedChain, rule: &Rule) {
        let (family, table) = (self.family, chain.table());
        let written = self.table(table).append_dispatch_rule(chain, |id, out| append_line(family, id, rule, out));
        if let Some((written, rule_text)) = written {
            written.tail.push(rule_text);
            self.rules[table as usize] += 1;
        }
    }

    /// Inserts an entry jump at the top of its chain.
    pub(crate) fn entry_jump(&mut self, jump: &EntryJump) {
        let family = self.family;
        let out = &mut self.table(jump.table).entry_jumps;
        out.extend_from_slice(b"-I ");
        out.extend_from_slice(jump.chain.as_bytes());
        jump.rule.write_to(family, out);
        out.push(b'\n');
    }

    /// Creates KUBE-FIREWALL.
    pub(crate) fn create_firewall(&mut self) {
        self.table(Table::Filter).creates_firewall = true;
    }

    /// Empties a chain that cannot be deleted.
    pub(crate) fn empty(&mut self, id: ChainId) {
        self.table(id.table()).emptied.push(id);
    }

    /// Deletes a chain.
    pub(crate) fn delete(&mut self, id: ChainId) {
        self.table(id.table()).deletions.push(id);
    }

    /// Returns every chain that is written, emptied ones included.
    pub(crate) fn written(&self) -> Vec<ChainId> {
        let one = |t: &TableChanges| {
            let dispatch = t.dispatch.iter().map(|d| ChainId::Fixed(d.chain));
            let chains = t.chains.iter().map(|c| c.id).chain(t.tree_chains.iter().map(|p| p.id));
            chains.chain(dispatch).chain(t.emptied.iter().copied()).collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(one).collect()
    }

    /// Returns every chain that is deleted.
    pub(crate) fn deleted(&self) -> Vec<ChainId> {
        self.tables.iter().flat_map(|t| t.deletions.iter().copied()).collect()
    }
}

fn append_text(id: ChainId, rule: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"-A ");
    id.write_name(out);
    out.extend_from_slice(rule);
    out.push(b'\n');
}
