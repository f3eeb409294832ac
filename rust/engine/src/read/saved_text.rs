//! Reads the observed state from the output of `iptables-save`.
//!
//! An unparsable rule in one of ferrule's chains makes the chain different: it is rewritten, never interpreted.

use hashbrown::HashMap;

use crate::error::ObserveError;
use crate::model::address::Family;
use crate::model::names::{ChainId, Table};
use crate::read::observed::{Accumulator, Observed};
use crate::rules::digest::Digester;
use crate::rules::entry_jumps::FIREWALL;
use crate::rules::rule::Rule;
use crate::rules::save_format::lines::{lines, target_of_ours, without_counters};
use crate::rules::save_format::parse::parse;

/// Reads the output of `iptables-save` for all tables.
pub(crate) fn read(family: Family, digester: &Digester, saved: &[u8]) -> Result<Observed, ObserveError> {
    let mut observed = Observed::default();
    let mut building: HashMap<ChainId, Accumulator> = HashMap::new();
    let mut table: Option<(Option<Table>, &[u8])> = None;
    let mut line_again = Vec::new();
    for line in lines(saved) {
        if let Some(name) = line.strip_prefix(b"*") {
            if let Some((_, open)) = table {
                return Err(cut_short(open));
            }
            table = Some((Table::parse(name), name));
        } else if line == b"COMMIT" {
            table = None;
        } else if let Some((Some(table), _)) = table {
            if let Some(rest) = line.strip_prefix(b":") {
                let name = rest.split(|&b| b == b' ').next().unwrap_or_default();
                if let Some(id) = ChainId::parse(table, name) {
                    building.entry(id).or_insert_with(|| Accumulator::new(id, digester));
                } else if table == Table::Filter && name == FIREWALL.as_bytes() {
                    observed.firewall_exists = true;
                }
                continue;
            }
            let Some(rest) = without_counters(line).strip_prefix(b"-A ") else { continue };
            let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
            let (name, body) = rest.split_at(end);
            let rule = std::str::from_utf8(body).ok().and_then(|text| parse(family, table, text));
            let Some(id) = ChainId::parse(table, name) else {
                foreign_chain(&mut observed, table, name, body, rule);
                continue;
            };
            let chain = building.entry(id).or_insert_with(|| Accumulator::new(id, digester));
            match rule {
                Some(rule) => {
                    chain.rule(family, digester, id, &rule, &mut line_again);
                    observed.ours(id, &rule);
                }
                None => chain.foreign(digester, line),
            }
        }
    }
    if let Some((_, open)) = table {
        return Err(cut_short(open));
    }
    #[allow(clippy::iter_over_hash_type)] // from one map into another
    for (id, chain) in building {
        observed.chains.insert(id, chain.finish());
    }
    Ok(observed)
}

fn cut_short(table: &[u8]) -> ObserveError {
    ObserveError::Saved { reason: format!("table {} has no COMMIT", String::from_utf8_lossy(table)) }
}

/// Records a rule of a foreign chain, of which only the target matters.
fn foreign_chain(observed: &mut Observed, table: Table, name: &[u8], body: &[u8], rule: Option<Rule>) {
    if let Some(rule) = rule {
        observed.foreign(table, name, rule);
        return;
    }
    if let Some(target) = target_of_ours(table, body) {
        observed.hold(target, name);
    }
}
