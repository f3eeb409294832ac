//! Splits the output of `iptables-save` into lines, and finds the targets of foreign rules.

use memchr::{memchr, memchr2_iter, memmem};

use crate::model::names::{ChainId, Table};
use crate::rules::save_format::words::words;

/// Maximum length of the continuation of a line. The kernel accepts comments of 255 bytes, and `iptables-save` doubles
/// some of them.
const CONTINUATION: usize = 512;

/// Returns the lines of a save. A line feed inside quotes, which comments may contain, does not end a line: the text
/// after it belongs to the same rule, whatever it looks like.
pub(crate) fn lines(saved: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = saved;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, end) = first_line(rest);
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// Returns the first line, and the index of the line feed behind it.
fn first_line(text: &[u8]) -> (&[u8], usize) {
    let line_feed = |from: usize| from + memchr(b'\n', &text[from..]).unwrap_or(text.len() - from);
    let end = line_feed(0);
    let mut longer = end;
    let mut quoted = ends_in_quotes(false, &text[..end]);
    while quoted && longer < text.len() && longer - end <= CONTINUATION {
        let next = line_feed(longer + 1);
        quoted = ends_in_quotes(true, &text[longer + 1..next]);
        longer = next;
    }
    // An unbalanced quote belongs only to its line.
    let end = if quoted { end } else { longer };
    (&text[..end], end)
}

fn ends_in_quotes(mut inside: bool, text: &[u8]) -> bool {
    let mut next = 0;
    for at in memchr2_iter(b'"', b'\\', text) {
        if at < next {
            continue;
        }
        if text[at] == b'"' {
            inside = !inside;
        } else if inside {
            next = at + 2;
        }
    }
    inside
}

/// Strips `[packets:bytes] ` from the front of a rule (`iptables-save -c`).
pub(crate) fn without_counters(line: &[u8]) -> &[u8] {
    match line.strip_prefix(b"[").and_then(|rest| memmem::find(rest, b"] ").map(|at| &rest[at + 2..])) {
        Some(rest) => rest,
        None => line,
    }
}

/// Returns the chain of ferrule that a foreign rule jumps or goes to. Words in quotes never count as options.
pub(crate) fn target_of_ours(table: Table, rule: &[u8]) -> Option<ChainId> {
    let rule = String::from_utf8_lossy(rule);
    // With an unbalanced quote the words are ambiguous: an additional rule that counts as a reference is the safe
    // choice.
    let words = words(&rule).unwrap_or_else(|| rule.split_ascii_whitespace().map(str::to_owned).collect());
    words.windows(2).find_map(|pair| match pair[0].as_str() {
        "-j" | "-g" => ChainId::parse(table, pair[1].as_bytes()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<&str> {
        lines(text.as_bytes()).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect()
    }

    #[test]
    fn a_line_feed_in_quotes_ends_no_line() {
        assert_eq!(all("*nat\n\nCOMMIT\n"), ["*nat", "", "COMMIT"]);
        assert_eq!(all("-A A --comment \"a\nCOMMIT\n*nat\" -j B\nC"), ["-A A --comment \"a\nCOMMIT\n*nat\" -j B", "C"]);
        assert_eq!(all("a \"\\\"\n\" b\nc\n"), ["a \"\\\"\n\" b", "c"]);
        assert_eq!(all("a \"b\\\\\"\nc\""), ["a \"b\\\\\"", "c\""]);
    }

    #[test]
    fn a_quote_that_stays_open_takes_one_line() {
        assert_eq!(all("a \"b\nc\nd"), ["a \"b", "c", "d"]);
        let far = format!("a \"b\nc\n{}\"", "x\n".repeat(CONTINUATION));
        assert_eq!(all(&far)[..3], ["a \"b", "c", "x"]);
    }

    #[test]
    fn a_target_is_an_option_and_its_value() {
        let target = |rule: &str| target_of_ours(Table::Nat, rule.as_bytes()).map(ChainId::name);
        assert_eq!(target(" -p tcp -g KUBE-SERVICES").as_deref(), Some("KUBE-SERVICES"));
        assert_eq!(target(" -m comment --comment -j -j KUBE-SERVICES").as_deref(), Some("KUBE-SERVICES"));
        assert_eq!(target(" -m comment --comment \"-j KUBE-SERVICES\" -j ACCEPT"), None);
        assert_eq!(target(" -m comment --comment \"\\\" -j KUBE-SERVICES\" -j ACCEPT"), None);
        assert_eq!(target(" -m comment --comment \" -j KUBE-SERVICES").as_deref(), Some("KUBE-SERVICES"));
        assert_eq!(target(" -j KUBE-FIREWALL"), None);
    }
}
