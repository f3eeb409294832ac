//! What one plan writes and deletes, before it is text of any particular kind.
//!
//! Chains are offered as typed rules; each is rendered once into a buffer of its table and digested there, whether or not
//! it turns out to be needed. `restore` puts the pieces in order; another way to write would do so in its own way.

use std::ops::Range;

use crate::model::address::Family;
use crate::model::claims::Claim;
use crate::model::names::{ChainId, FixedChain, Table};
use crate::rules::digest::{Digest, Digester};
use crate::rules::entry_jumps::Hook;
use crate::rules::rule::Rule;
use crate::rules::ruleset::rank_key;
use crate::rules::save_format::print::append_line;
use crate::write::rendered_rules::{Lines, jump_of};

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

    /// Append to the part opened last.
    fn part_line(&mut self, write: impl FnOnce(ChainId, &mut Vec<u8>)) {
        let Some(part) = self.parts.last_mut() else { return };
        write(part.id, &mut self.text);
        part.rules.end = self.text.len();
        part.count += 1;
    }

    /// Append for a dispatch chain, if it was opened; gives it and what was appended.
    fn dispatch_line(
        &mut self,
        chain: FixedChain,
        write: impl FnOnce(ChainId, &mut Vec<u8>),
    ) -> Option<(&mut DispatchChain, Range<usize>)> {
        let written = self.dispatch.iter_mut().find(|d| d.chain == chain)?;
        let start = self.text.len();
        write(ChainId::Fixed(chain), &mut self.text);
        Some((written, start..self.text.len()))
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
    /// Rules of dispatch chains that were rendered on the way.
    pub(crate) lines: Lines,
}

impl<'a> Writes<'a> {
    pub(crate) fn new(family: Family, digester: &'a Digester) -> Self {
        Self { family, digester, tables: Default::default(), rules: [0; 3], ports: 0, lines: Lines::default() }
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

    /// Begin a part of a dispatch chain that has to be written.
    pub(crate) fn open_part(&mut self, id: ChainId, depth: u8) {
        let table = self.table(id.table());
        let start = table.text.len();
        table.parts.push(WrittenPart { id, depth, rules: start..start, count: 0 });
    }

    /// One more rule of the part opened last.
    pub(crate) fn part(&mut self, table: Table, rule: &Rule) {
        let family = self.family;
        self.table(table).part_line(|id, out| append_line(family, id, rule, out));
        self.rules[table as usize] += 1;
    }

    /// The same, of a rule that was rendered on the way; false if it was not.
    pub(crate) fn part_known(&mut self, table: Table, digest: Digest) -> bool {
        let Self { lines, tables, rules, .. } = self;
        let Some(line) = lines.get(digest) else { return false };
        tables[table as usize].part_line(|id, out| append_text(id, lines.text(line), out));
        rules[table as usize] += 1;
        true
    }

    /// Begin a dispatch chain; its digest is known already.
    pub(crate) fn open(&mut self, chain: FixedChain) {
        self.table(chain.table()).dispatch.push(DispatchChain { chain, lines: Vec::new(), tail: Vec::new() });
    }

    /// One more rule of a dispatch chain, if it was opened.
    pub(crate) fn dispatch(&mut self, chain: FixedChain, rule: &Rule) {
        let (family, table) = (self.family, chain.table());
        let written = self.table(table).dispatch_line(chain, |id, out| append_line(family, id, rule, out));
        if let Some((written, rule_text)) = written {
            let key = rank_key(table, Claim::of_rule(rule));
            written.lines.push(DispatchLine { rule: rule_text, target: jump_of(rule), key });
            self.rules[table as usize] += 1;
        }
    }

    /// The same, of a rule that was rendered on the way.
    pub(crate) fn dispatch_known(&mut self, chain: FixedChain, key: Claim, digest: Digest) {
        let Self { lines, tables, rules, .. } = self;
        let table = chain.table();
        let Some(line) = lines.get(digest) else { return };
        let written = tables[table as usize].dispatch_line(chain, |id, out| append_text(id, lines.text(line), out));
        if let Some((written, rule_text)) = written {
            let key = rank_key(table, Some(key));
            written.lines.push(DispatchLine { rule: rule_text, target: line.target, key });
            rules[table as usize] += 1;
        }
    }

    /// A rule that ends an opened dispatch chain.
    pub(crate) fn dispatch_tail(&mut self, chain: FixedChain, rule: &Rule) {
        let (family, table) = (self.family, chain.table());
        let written = self.table(table).dispatch_line(chain, |id, out| append_line(family, id, rule, out));
        if let Some((written, rule_text)) = written {
            written.tail.push(rule_text);
            self.rules[table as usize] += 1;
        }
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

fn append_text(id: ChainId, rule: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"-A ");
    id.write_name(out);
    out.extend_from_slice(rule);
    out.push(b'\n');
}
