//! A simulated kernel with the rules of one family. Restore text is applied table by table, each atomically.

use std::collections::BTreeMap;

use ferrule_engine::Family;
use ferrule_engine::nft::Transactions;
use ferrule_engine::restore_text::RestoreText;

/// The chain with the foreign rules that reference ferrule's chains.
pub const FOREIGN: &str = "MINE";

type Table = BTreeMap<String, Vec<String>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    tables: BTreeMap<String, Table>,
}

const BUILTIN: [(&str, &[&str]); 3] = [
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
];

impl Kernel {
    pub fn new() -> Self {
        let table = |chains: &[&str]| chains.iter().map(|c| ((*c).to_owned(), Vec::new())).collect();
        Self { tables: BUILTIN.iter().map(|(name, chains)| ((*name).to_owned(), table(chains))).collect() }
    }

    /// Applies `iptables-restore --noflush` text. At most `commits` tables are committed, to simulate a tool that is
    /// killed halfway.
    pub fn restore(&mut self, text: &[u8], commits: usize) -> Result<(), String> {
        let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
        let mut open: Option<(String, Table)> = None;
        let mut committed = 0;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                let table = self.tables.get(name).ok_or_else(|| format!("no table {name}"))?;
                open = Some((name.to_owned(), table.clone()));
            } else if line == "COMMIT" {
                let (name, table) = open.take().ok_or("COMMIT outside a table")?;
                check(&table)?;
                if committed == commits {
                    return Ok(());
                }
                committed += 1;
                self.tables.insert(name, table);
            } else {
                let (_, table) = open.as_mut().ok_or_else(|| format!("outside a table: {line}"))?;
                apply(table, line)?;
            }
        }
        if open.is_some() { Err("no COMMIT".to_owned()) } else { Ok(()) }
    }

    /// Applies the netlink requests of a plan, at most so many transactions, by describing their bytes.
    pub fn transact(&mut self, family: Family, text: RestoreText, transactions: usize) -> Result<(), String> {
        for transaction in Transactions::new(family, text).take(transactions) {
            let transaction = transaction.map_err(|e| e.to_string())?;
            let mut table = String::new();
            let mut lines = String::new();
            for sequence in 2..=transaction.last {
                let request = transaction.describe(family, sequence).ok_or("a request that is none")?;
                let (of, request) = request.split_once(": ").ok_or("no table")?;
                of.clone_into(&mut table);
                lines += &match request.split_at(3) {
                    ("-N " | "-F ", chain) if !chain.starts_with("KUBE-") => String::new(),
                    ("-N " | "-F ", chain) => format!(":{chain} - [0:0]\n"),
                    _ => format!("{request}\n"),
                };
            }
            self.restore(format!("*{table}\n{lines}COMMIT\n").as_bytes(), usize::MAX)?;
        }
        Ok(())
    }

    pub fn save(&self) -> String {
        let mut out = String::new();
        for (name, table) in &self.tables {
            out += &format!("*{name}\n");
            for chain in table.keys() {
                let base = BUILTIN.iter().any(|(of, chains)| of == name && chains.contains(&chain.as_str()));
                let policy = if base { "ACCEPT" } else { "-" };
                out += &format!(":{chain} {policy} [0:0]\n");
            }
            for (chain, rules) in table {
                for rule in rules {
                    out += &format!("-A {chain}{rule}\n");
                }
            }
            out += "COMMIT\n";
        }
        out
    }

    pub fn chains(&self) -> usize {
        self.tables.values().map(BTreeMap::len).sum()
    }

    /// Adds a foreign rule that references the nth of the Services' chains, if there are any.
    pub fn reference(&mut self, nth: usize) {
        let hashed = |name: &&String| {
            ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-"].iter().any(|p| name.starts_with(p))
        };
        let chains = |table| self.tables[table].keys().filter(hashed).map(move |chain| (table, chain.clone()));
        let all: Vec<(&str, String)> = chains("nat").chain(chains("filter")).collect();
        if let Some((table, chain)) = all.get(nth % all.len().max(1)) {
            let verb = if nth.is_multiple_of(2) { "-j" } else { "-g" };
            self.table_mut(table).entry(FOREIGN.to_owned()).or_default().push(format!(" {verb} {chain}"));
        }
    }

    /// Removes the foreign rules.
    pub fn unreference(&mut self) {
        self.tables.values_mut().for_each(|table| drop(table.remove(FOREIGN)));
    }

    /// Returns a table for an edit by another process.
    pub fn table_mut(&mut self, name: &str) -> &mut Table {
        self.tables.get_mut(name).unwrap()
    }
}

fn apply(table: &mut Table, line: &str) -> Result<(), String> {
    let (verb, rest) = line.split_at(line.len().min(3));
    let (chain, rule) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
    if let Some(declared) = line.strip_prefix(':') {
        let name = declared.split(' ').next().unwrap_or_default();
        if name.len() > 28 || name.is_empty() {
            return Err(format!("chain name {name:?}"));
        }
        table.insert(name.to_owned(), Vec::new());
        return Ok(());
    }
    let rules = table.get_mut(chain).ok_or_else(|| format!("no chain: {line}"))?;
    match verb {
        "-A " => rules.push(rule.to_owned()),
        "-I " => rules.insert(0, rule.to_owned()),
        "-D " => {
            let at = rules.iter().position(|r| r == rule).ok_or_else(|| format!("no such rule: {line}"))?;
            rules.remove(at);
        }
        "-X " if !rules.is_empty() => return Err(format!("not empty: {line}")),
        "-X " => drop(table.remove(chain)),
        _ => return Err(format!("not understood: {line}")),
    }
    Ok(())
}

fn check(table: &Table) -> Result<(), String> {
    const TARGETS: [&str; 7] = ["ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "MASQUERADE", "DNAT"];
    for (chain, rules) in table {
        for rule in rules {
            let rule = unquoted(rule)?;
            let Some((_, target)) = rule.split_once(" -j ").or_else(|| rule.split_once(" -g ")) else { continue };
            let target = target.split(' ').next().unwrap_or_default();
            if !TARGETS.contains(&target) && !table.contains_key(target) {
                return Err(format!("{chain}: no such target {target}"));
            }
        }
    }
    Ok(())
}

/// Returns the rule without quoted text; the real tool treats the rest of the text as quoted if a quote stays open.
fn unquoted(rule: &str) -> Result<String, String> {
    let rule = rule.replace(r"\\", "").replace(r#"\""#, "");
    let parts: Vec<&str> = rule.split('"').collect();
    if parts.len().is_multiple_of(2) {
        return Err(format!("unbalanced quote: {rule}"));
    }
    Ok(parts.into_iter().step_by(2).collect())
}
