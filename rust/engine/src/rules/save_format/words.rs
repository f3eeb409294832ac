//! Splits a line into words as `iptables-restore` does.

/// Splits a line into words as iptables-restore does: blanks separate, double quotes group, a backslash escapes inside
/// quotes. `None` for an unbalanced quote.
pub(super) fn words(line: &str) -> Option<Vec<String>> {
    let mut out = Vec::with_capacity(16);
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        let mut current = String::new();
        match chars.peek() {
            None => return Some(out),
            Some('"') => {
                chars.next();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => current.push(chars.next()?),
                        c => current.push(c),
                    }
                }
            }
            Some(_) => {
                while let Some(c) = chars.next_if(|c| !c.is_ascii_whitespace()) {
                    current.push(c);
                }
            }
        }
        out.push(current);
    }
}
