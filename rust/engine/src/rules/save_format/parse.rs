//! Parses a rule from `iptables-save` text: the inverse of [`Rule::write_to`].
//!
//! Tolerant in spelling (a missing `/32`, `--or-mark`, another order of header options, other quoting), so that the
//! output of a different iptables version is still recognised. Strict in meaning: a rule that ferrule would not write
//! yields `None`, and its chain counts as different.

use std::net::{IpAddr, SocketAddr};

use crate::model::address::{Family, Net, parse_ip};
use crate::model::interface::Interface;
use crate::model::names::{ChainId, Protocol, Table};
use crate::rules::matches::{Comment, Counter, CtState, Match, Negatable, Side};
use crate::rules::probability::Probability;
use crate::rules::rule::{Rule, Target};
use crate::rules::save_format::words::words;

/// The options of one `-m recent`, which together make one match.
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

/// Parses the part of a `-A CHAIN …` line that follows the chain's name.
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

    /// Reads one option of the rule, or of the match whose `-m` came last.
    fn option(&mut self, option: &str, negated: bool) -> Option<()> {
        match option {
            "-s" | "-d" | "-i" | "--ctstate" | "--mark" => self.negatable_option(option, negated)?,
            _ if negated => return None,
            "-p" => self.rule.protocol = Some(protocol(self.next()?)?),
            "-m" => self.module()?,
            "-j" => {
                self.finish_recent()?;
                let target = self.target()?;
                self.rule.target = Some(target);
            }
            "--set" | "--rcheck" | "--reap" | "--rsource" | "--seconds" | "--name" | "--mask" => {
                self.recent_option(option)?;
            }
            _ => self.match_option(option)?,
        }
        Some(())
    }

    fn negatable_option(&mut self, option: &str, negated: bool) -> Option<()> {
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
            _ => return None,
        }
        Some(())
    }

    fn match_option(&mut self, option: &str) -> Option<()> {
        match option {
            "--comment" => {
                let text = self.next()?;
                let comment = Comment::new(&[text]);
                // Sanitising could turn a foreign comment into one of ferrule's.
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
            _ => return None,
        }
        Some(())
    }

    fn recent_option(&mut self, option: &str) -> Option<()> {
        match option {
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

/// Parses `N` or `LOW:HIGH`, where the range must be one that dispatch trees use.
fn port_or_range(text: &str) -> Option<(u16, u16)> {
    let Some((low, high)) = text.split_once(':') else {
        let port = text.parse().ok()?;
        return Some((port, port));
    };
    // Some versions omit an end that is the minimum or the maximum.
    let low: u16 = if low.is_empty() { 0 } else { low.parse().ok()? };
    let high: u16 = if high.is_empty() { u16::MAX } else { high.parse().ok()? };
    is_branch(low, high).then_some((low, high))
}

/// Returns whether a range of ports is one that dispatch trees use: a power of sixteen wide and aligned to its width.
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
