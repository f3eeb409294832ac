//! Computes the removal of all rules of ferrule and kube-proxy from the output of `iptables-save`.
//!
//! Works without objects or earlier state: a chain is recognised by its name. KUBE-FIREWALL, KUBE-IPTABLES-HINT and
//! KUBE-KUBELET-CANARY are kubelet's and stay.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use hashbrown::HashSet;

use crate::model::names::{ChainId, Table};
use crate::rules::save_format::lines::{lines, target_of_ours, without_counters};
use crate::write::restore_text::RestoreText;

/// The removal of ferrule's rules from one table.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The table.
    pub table: Table,
    /// Input of `iptables-restore --noflush`: one transaction, empty if there is nothing to remove.
    pub text: RestoreText,
    /// Number of chains that it deletes.
    pub chains: usize,
    /// Number of entry jumps that it deletes.
    pub jumps: usize,
    /// Chains that it empties and cannot delete, each with a foreign rule that references it. Sorted.
    pub held: Vec<(String, String)>,
}

/// Returns what to remove, table by table, in the order of the save. Takes any bytes.
#[must_use]
pub fn removals(saved: &[u8]) -> Vec<Removal> {
    let mut found = Vec::new();
    let mut open: Option<Contents<'_>> = None;
    for line in lines(saved) {
        if line == b"COMMIT" || line.starts_with(b"*") {
            found.extend(open.take().and_then(Contents::removal));
            open = line.strip_prefix(b"*").and_then(Table::parse).map(Contents::new);
        } else if let Some(contents) = &mut open {
            contents.line(line);
        }
    }
    found.extend(open.and_then(Contents::removal));
    found
}

/// The relevant content of a table.
struct Contents<'a> {
    table: Table,
    base_chains: HashSet<&'a [u8]>,
    ours: HashSet<ChainId>,
    /// Whether a chain of ferrule has rules.
    filled: bool,
    /// Entry jumps to fixed chains: those that ferrule and kube-proxy write.
    jumps: Vec<&'a [u8]>,
    /// A foreign rule for each referenced chain.
    held: BTreeMap<ChainId, &'a [u8]>,
}

impl<'a> Contents<'a> {
    fn new(table: Table) -> Self {
        Self {
            table,
            base_chains: HashSet::new(),
            ours: HashSet::new(),
            filled: false,
            jumps: Vec::new(),
            held: BTreeMap::new(),
        }
    }

    fn line(&mut self, line: &'a [u8]) {
        if let Some(declared) = line.strip_prefix(b":") {
            let mut words = declared.split(|&b| b == b' ');
            let (Some(name), Some(policy)) = (words.next(), words.next()) else { return };
            if policy != b"-" {
                self.base_chains.insert(name);
            } else if let Some(id) = ChainId::parse(self.table, name) {
                self.ours.insert(id);
            }
        } else if let Some(rule) = without_counters(line).strip_prefix(b"-A ") {
            self.rule(rule);
        }
    }

    fn rule(&mut self, rule: &'a [u8]) {
        let end = memchr::memchr(b' ', rule).unwrap_or(rule.len());
        let (chain, body) = rule.split_at(end);
        if ChainId::parse(self.table, chain).is_some() {
            self.filled = true;
            return;
        }
        let Some(target) = target_of_ours(self.table, body) else { return };
        // Restore text cannot represent a rule with a line feed.
        let deletable = self.base_chains.contains(chain) && !rule.contains(&b'\n');
        if deletable && matches!(target, ChainId::Fixed(_)) {
            self.jumps.push(rule);
        } else {
            self.held.insert(target, rule);
        }
    }

    fn removal(self) -> Option<Removal> {
        let mut ours: Vec<ChainId> = self.ours.into_iter().collect();
        let chains = ours.iter().filter(|id| !self.held.contains_key(id)).count();
        let jumps = self.jumps.len();
        let mut held: Vec<(String, String)> = self
            .held
            .iter()
            .map(|(chain, rule)| (chain.name(), format!("-A {}", String::from_utf8_lossy(rule))))
            .collect();
        held.sort_unstable();
        if chains == 0 && jumps == 0 && !self.filled {
            let text = RestoreText::default();
            return (!held.is_empty()).then_some(Removal { table: self.table, text, chains, jumps, held });
        }
        // In descending order: the nft tool keeps names in a sorted list and scans it from the front, so each lookup
        // ends at the first name.
        ours.sort_unstable_by_key(|id| Reverse(id.name_key()));
        let deletions: Vec<u8> = self.jumps.iter().flat_map(|rule| [b"-D ", *rule, b"\n"].concat()).collect();
        let rules = 0..deletions.len();
        let mut buffers: [Vec<u8>; 3] = Default::default();
        buffers[self.table as usize] = deletions;
        let mut text = RestoreText::over(buffers, 2 * ours.len() + 3);
        text.block(self.table, "removal", |text| {
            // Declaring a chain empties it, so that no rule of ferrule references another of its chains.
            for &id in &ours {
                text.declare(id);
            }
            text.lines(self.table, rules, jumps);
            for &id in ours.iter().filter(|&id| !self.held.contains_key(id)) {
                text.delete(id);
            }
        });
        Some(Removal { table: self.table, text, chains, jumps, held })
    }
}
