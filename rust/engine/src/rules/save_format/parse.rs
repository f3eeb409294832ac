//! `iptables-save` text back into a [`Rule`]: the inverse of `Rule::write_to`.
//!
//! Tolerant in spelling (a missing `/32`, `--or-mark`, options in another order of header fields, other quoting), so
//! that what a different iptables version prints is still recognised; strict in meaning: anything we would not have
//! written is `None`, and the chain that holds it counts as different.

use std::net::{IpAddr, SocketAddr};

use crate::model::address::{Family, Net, parse_ip};
use crate::model::interface::Interface;
use crate::model::names::{ChainId, Protocol, Table};
use crate::rules::matches::{Comment, Counter, CtState, Match, Negatable, Side};
use crate::rules::probability::Probability;
use crate::rules::rule::{Rule, Target};

/// Split a line into words as iptables-restore does: blanks separate, double quotes group, a backslash escapes inside
/// quotes. `None` for an unbalanced quote.
fn words(line: &str) -> Option<Vec<String>> {
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

/// What the current `-m` module has collected; several options make one match.
#[derive(Default)]
struct Recent {
    set: bool,
    check: bool,
    reap: bool,
    seconds: Option<u32>,
    list: Option<ChainId>,
}

impl Recent {
    fn finish(self) -> Option<Match> {
        let list = self.list?;
        match (self.set, self.check, self.seconds, self.reap) {
            (true, false, None, false) => Some(Match::RecentSet { list }),
            (false, true, Some(seconds), true) => Some(Match::RecentCheck { list, seconds }),
            _ => None,
        }
    }
}

struct Parser<'a> {
    family: Family,
    table: Table,
    words: std::slice::Iter<'a, String>,
    rule: Rule,
    recent: Option<Recent>,
}

/// Parse the part of a `-A CHAIN …` line that follows the chain's name.
pub(crate) fn parse(family: Family, table: Table, text: &str) -> Option<Rule> {
    let words = words(text)?;
    let mut parser = Parser { family, table, words: words.iter(), rule: Rule::default(), recent: None };
    parser.run()?;
    Some(parser.rule)
}

impl Parser<'_> {
    fn run(&mut self) -> Option<()> {
        let mut negated = false;
        while let Some(option) = self.words.next() {
            if option == "!" {
                if negated {
                    return None;
                }
                negated = true;
                continue;
            }
            self.option(option, negated)?;
            negated = false;
        }
        self.finish_recent()?;
        (!negated).then_some(())
    }

    fn finish_recent(&mut self) -> Option<()> {
        if let Some(recent) = self.recent.take() {
            self.rule.matches.push(recent.finish()?);
        }
        Some(())
    }

    fn next(&mut self) -> Option<&str> {
        self.words.next().map(String::as_str)
    }

    fn net(&mut self) -> Option<Net> {
        let text = self.next()?;
        let net = if text.contains('/') { Net::parse(text).ok()? } else { Net::host(parse_ip(text).ok()?) };
        (net.family() == self.family).then_some(net)
    }

    fn option(&mut self, option: &str, negated: bool) -> Option<()> {
        match option {
            "-s" => {
                let value = self.net()?;
                self.rule.source = Some(Negatable { negated, value }).filter(|n| n.negated || !n.value.is_everything());
            }
            "-d" => {
                let value = self.net()?;
                self.rule.destination =
                    Some(Negatable { negated, value }).filter(|n| n.negated || !n.value.is_everything());
            }
            "-i" => {
                let value = Interface::new(self.next()?)?;
                self.rule.in_interface = Some(Negatable { negated, value });
            }
            "--ctstate" => {
                let value = CtState::parse(self.next()?)?;
                self.rule.matches.push(Match::Conntrack(Negatable { negated, value }));
            }
            "--mark" => {
                let (value, mask) = mark(self.next()?)?;
                self.rule.matches.push(Match::Mark { negated, value, mask });
            }
            _ if negated => return None,
            "-p" => self.rule.protocol = Some(protocol(self.next()?)?),
            "-m" => self.module()?,
            "-j" => {
                self.finish_recent()?;
                let target = self.target()?;
                self.rule.target = Some(target);
            }
            "--comment" => {
                let text = self.next()?;
                let comment = Comment::new(&[text]);
                // Sanitising would make a foreign comment look like one of ours.
                (comment.as_str() == text).then_some(())?;
                self.rule.matches.push(Match::Comment(comment));
            }
            "--src-type" => {
                (self.next()? == "LOCAL").then(|| self.rule.matches.push(Match::LocalAddress(Side::Source)))?;
            }
            "--dst-type" => {
                (self.next()? == "LOCAL").then(|| self.rule.matches.push(Match::LocalAddress(Side::Destination)))?;
            }
            "--dport" => {
                let ports = port_or_range(self.next()?)?;
                let last = self.rule.matches.last_mut()?;
                let Match::Port { protocol, destination: destination @ None } = last else { return None };
                match ports {
                    (low, high) if low == high => *destination = Some(low),
                    (low, high) => *last = Match::PortRange { protocol: *protocol, low, high },
                }
            }
            "--nfacct-name" => {
                let counter = Counter::parse(self.next()?)?;
                self.rule.matches.push(Match::Nfacct(counter));
            }
            "--mode" => (self.next()? == "random").then_some(())?,
            "--probability" => {
                let probability = Probability::from_text(self.next()?)?;
                self.rule.matches.push(Match::Statistic(probability));
            }
            "--set" => self.recent.as_mut()?.set = true,
            "--rcheck" => self.recent.as_mut()?.check = true,
            "--reap" => self.recent.as_mut()?.reap = true,
            "--rsource" => drop(self.recent.as_ref()?),
            "--seconds" => {
                let seconds = self.next()?.parse().ok()?;
                self.recent.as_mut()?.seconds = Some(seconds);
            }
            "--name" => {
                let list = ChainId::parse(Table::Nat, self.next()?.as_bytes())?;
                self.recent.as_mut()?.list = Some(list);
            }
            "--mask" => {
                self.recent.as_ref()?;
                let everything = match parse_ip(self.next()?).ok()? {
                    IpAddr::V4(ip) => ip.to_bits() == u32::MAX,
                    IpAddr::V6(ip) => ip.to_bits() == u128::MAX,
                };
                everything.then_some(())?;
            }
            _ => return None,
        }
        Some(())
    }

    fn module(&mut self) -> Option<()> {
        self.finish_recent()?;
        match self.next()? {
            "comment" | "addrtype" | "conntrack" | "mark" | "nfacct" | "statistic" => {}
            "recent" => self.recent = Some(Recent::default()),
            name => {
                let protocol = protocol(name)?;
                self.rule.matches.push(Match::Port { protocol, destination: None });
            }
        }
        Some(())
    }

    fn target(&mut self) -> Option<Target> {
        let (family, table) = (self.family, self.table);
        Some(match self.next()? {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "RETURN" => Target::Return,
            "REJECT" => {
                let with = match self.next() {
                    Some("--reject-with") => self.next()?,
                    None => return Some(Target::Reject),
                    Some(_) => return None,
                };
                let ours = match family {
                    Family::V4 => "icmp-port-unreachable",
                    Family::V6 => "icmp6-port-unreachable",
                };
                (with == ours).then_some(Target::Reject)?
            }
            "MARK" => {
                let how = self.next()?.to_owned();
                let (value, mask) = mark(self.next()?)?;
                match how.as_str() {
                    "--set-xmark" => Target::SetXmark { value, mask },
                    "--or-mark" => Target::SetXmark { value, mask: value },
                    "--xor-mark" => Target::SetXmark { value, mask: 0 },
                    _ => return None,
                }
            }
            "MASQUERADE" => match self.next() {
                None => Target::Masquerade { random_fully: false },
                Some("--random-fully") => Target::Masquerade { random_fully: true },
                Some(_) => return None,
            },
            "DNAT" => {
                (self.next()? == "--to-destination").then_some(())?;
                let to: SocketAddr = self.next()?.parse().ok()?;
                (Family::of(to.ip()) == family).then_some(Target::Dnat(to))?
            }
            "KUBE-FIREWALL" if table == Table::Filter => Target::JumpFirewall,
            name => Target::Jump(ChainId::parse(table, name.as_bytes())?),
        })
    }
}

fn protocol(text: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|p| p.name() == text)
}

/// `N`, or a branch.
fn port_or_range(text: &str) -> Option<(u16, u16)> {
    let Some((low, high)) = text.split_once(':') else {
        let port = text.parse().ok()?;
        return Some((port, port));
    };
    // Some versions leave out an end that is the least or the greatest there is.
    let low: u16 = if low.is_empty() { 0 } else { low.parse().ok()? };
    let high: u16 = if high.is_empty() { u16::MAX } else { high.parse().ok()? };
    is_branch(low, high).then_some((low, high))
}

/// A range of ports as dispatch trees have them: a power of sixteen wide, beginning at a multiple of that.
pub(crate) fn is_branch(low: u16, high: u16) -> bool {
    [0xf, 0xff, 0xfff].into_iter().any(|free| low & free == 0 && high == low | free)
}

fn mark(text: &str) -> Option<(u32, u32)> {
    let hex = |t: &str| match t.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => t.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((hex(value)?, hex(mask)?)),
        None => Some((hex(text)?, u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(family: Family, table: Table, text: &str) -> Option<String> {
        let mut out = Vec::new();
        parse(family, table, text)?.write_to(family, &mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn other_spellings_mean_the_same_rule() {
        for (given, canonical) in [
            (" -m comment --comment x -m tcp -p tcp -d 10.0.0.1 --dport 80 -j DROP", None),
            (
                " -d 10.0.0.1 -p tcp -m comment --comment \"a b\" -m tcp --dport 80 -j REJECT",
                Some(
                    " -d 10.0.0.1/32 -p tcp -m comment --comment \"a b\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
                ),
            ),
            (" -p tcp -d 10.0.0.1/32 -j ACCEPT", Some(" -d 10.0.0.1/32 -p tcp -j ACCEPT")),
            (" -j MARK --or-mark 0x4000", Some(" -j MARK --set-xmark 0x4000/0x4000")),
            (" -j MARK --xor-mark 0x4000", Some(" -j MARK --set-xmark 0x4000/0x0")),
            (" -s 0.0.0.0/0 -j DROP", Some(" -j DROP")),
            (" -p udp -m udp --dport :4095 -j DROP", Some(" -p udp -m udp --dport 0:4095 -j DROP")),
            (" -p tcp -m tcp --dport 65520: -j DROP", Some(" -p tcp -m tcp --dport 65520:65535 -j DROP")),
        ] {
            // `--dport` before its `-m tcp` has nothing to belong to; iptables-save never prints that.
            if let Some(canonical) = canonical {
                assert_eq!(again(Family::V4, Table::Filter, given).as_deref(), Some(canonical), "{given}");
            }
        }
    }

    #[test]
    fn what_we_would_not_write_is_not_recognised() {
        for foreign in [
            " -m comment --comment \"open -j DROP",
            " -m limit --limit 3/min -j DROP",
            " -d 10.0.0.1/32 -g KUBE-SERVICES",
            " ! -j DROP",
            " ! ! -d 10.0.0.1/32",
            " -j DOCKER",
            " -j DNAT --to-destination 10.0.0.1",
            " -j DNAT --to-destination [fd00::1]:80",
            " -d fd00::1/128 -j DROP",
            " -m recent --set -j DROP",
            " -m tcp --dport 80:90 -j DROP",
            " -m tcp --dport 80:81 --dport 80",
            " -m tcp --dport 16:15",
            " -m tcp --sport 80",
            " -j REJECT --reject-with tcp-reset",
            " --dport 80",
            " -m statistic --mode nth --every 2",
            " -m comment --comment \"semi'quote\"",
            " -j",
            " -m",
            " -d",
        ] {
            assert_eq!(again(Family::V4, Table::Nat, foreign), None, "{foreign}");
        }
    }

    #[test]
    fn escapes_inside_quotes_are_undone() {
        assert_eq!(words(r#"a "b \" c" d"#), Some(vec!["a".into(), "b \" c".into(), "d".into()]));
        assert_eq!(words("a \"b"), None);
    }
}
