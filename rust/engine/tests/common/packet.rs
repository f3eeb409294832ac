//! A rule interpreter: evaluates the output of `iptables-save` for the first packet of a flow. It shares no code with
//! the engine. Where the kernel draws a random number, it follows both branches and weighs them.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// The first packet of a flow.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: &'static str,
    pub port: u16,
    /// The input interface; empty for packets of this node.
    pub interface: &'static str,
    /// Whether every `recent` list contains the source.
    pub remembered: bool,
}

/// The effects of the rules on the packet. Chains of dispatch trees are not part of the trace, because they do not
/// change the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// Chains of Services and endpoints, in the order of traversal.
    pub trace: Vec<String>,
    pub destination: Option<String>,
    pub mark: u32,
    pub masqueraded: bool,
    /// `ACCEPT`, `DROP`, `REJECT`.
    pub verdict: String,
    /// Counters and client lists that were updated.
    pub noted: Vec<String>,
}

/// The probability of each outcome, and the number of rules evaluated on the longest path.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    pub outcomes: BTreeMap<Outcome, f64>,
    pub walked: usize,
    /// Number of rules evaluated on average.
    pub mean: f64,
}

impl Fate {
    /// Returns whether the outcomes and their probabilities are equal.
    pub fn agrees(&self, other: &Self) -> bool {
        self.agrees_within(other, 1e-12)
    }

    /// Returns whether the outcomes are equal and their probabilities differ by at most `tolerance`.
    pub fn agrees_within(&self, other: &Self, tolerance: f64) -> bool {
        self.outcomes.len() == other.outcomes.len()
            && self.outcomes.iter().zip(&other.outcomes).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < tolerance)
    }
}

/// The rules of one family, indexed for traversal.
#[derive(Debug, Default)]
pub struct Rules {
    chains: Vec<Vec<Rule>>,
    /// Table and name → index in `chains`.
    names: BTreeMap<(String, String), usize>,
    local: Vec<IpAddr>,
}

#[derive(Debug)]
struct Rule {
    conditions: Vec<(bool, Condition)>,
    target: Target,
}

#[derive(Debug)]
enum Condition {
    Source(IpAddr, u32),
    Destination(IpAddr, u32),
    Interface(String),
    Protocol(String),
    Ports(u16, u16),
    SourceLocal,
    DestinationLocal,
    States(Vec<String>),
    Mark(u32, u32),
    Note(String),
    Remembered,
    Probability(f64),
}

#[derive(Debug)]
enum Target {
    None,
    Jump(String, usize),
    Verdict(String),
    Return,
    SetXmark(u32, u32),
    Dnat(String),
    Masquerade,
}

#[derive(Clone)]
struct State {
    packet: Packet,
    outcome: Outcome,
    walked: usize,
    weight: f64,
}

/// How the traversal of a chain ended.
enum Left {
    /// At its end, or with RETURN.
    Back(State),
    /// With a verdict.
    Decided(State),
}

fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (i, part) in line.split('"').enumerate() {
        if i % 2 == 1 {
            out.push(part.to_owned());
        } else {
            out.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    out
}

fn hex_pair(text: &str) -> (u32, u32) {
    let (a, b) = text.split_once('/').unwrap();
    let number = |t: &str| u32::from_str_radix(t.trim_start_matches("0x"), 16).unwrap();
    (number(a), number(b))
}

fn network(text: &str) -> (IpAddr, u32) {
    let (ip, len) = text.split_once('/').unwrap();
    (ip.parse().unwrap(), len.parse().unwrap())
}

fn inside(ip: IpAddr, (net, len): (IpAddr, u32)) -> bool {
    match (ip, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => len == 0 || (a.to_bits() ^ b.to_bits()) >> (32 - len) == 0,
        (IpAddr::V6(a), IpAddr::V6(b)) => len == 0 || (a.to_bits() ^ b.to_bits()) >> (128 - len) == 0,
        _ => false,
    }
}

fn parse(line: &str) -> Rule {
    let words = words(line);
    let mut words = words.iter().map(String::as_str);
    let mut rule = Rule { conditions: Vec::new(), target: Target::None };
    let mut negated = false;
    while let Some(word) = words.next() {
        let mut next = || words.next().unwrap();
        let condition = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-s" => network(next()).into_condition(Condition::Source),
            "-d" => network(next()).into_condition(Condition::Destination),
            "-i" => Condition::Interface(next().to_owned()),
            "-p" => Condition::Protocol(next().to_owned()),
            "--dport" => {
                let text = next();
                let (low, high) = text.split_once(':').unwrap_or((text, text));
                Condition::Ports(low.parse().unwrap(), high.parse().unwrap())
            }
            "--src-type" => (next() == "LOCAL").then_some(Condition::SourceLocal).unwrap(),
            "--dst-type" => (next() == "LOCAL").then_some(Condition::DestinationLocal).unwrap(),
            "--ctstate" => Condition::States(next().split(',').map(str::to_owned).collect()),
            "--mark" => {
                let (value, mask) = hex_pair(next());
                Condition::Mark(value, mask)
            }
            "--nfacct-name" => Condition::Note(next().to_owned()),
            "--set" => {
                assert_eq!(next(), "--name");
                Condition::Note(next().to_owned())
            }
            "--rcheck" => Condition::Remembered,
            "--probability" => Condition::Probability(next().parse().unwrap()),
            "--comment" | "--mode" | "--name" | "--mask" | "--seconds" | "-m" => {
                next();
                continue;
            }
            "--rsource" | "--reap" => continue,
            "-j" => {
                rule.target = match next() {
                    verdict @ ("ACCEPT" | "DROP") => Target::Verdict(verdict.to_owned()),
                    "REJECT" => {
                        next();
                        next();
                        Target::Verdict("REJECT".to_owned())
                    }
                    "RETURN" => Target::Return,
                    "MARK" => {
                        assert_eq!(next(), "--set-xmark");
                        let (value, mask) = hex_pair(next());
                        Target::SetXmark(value, mask)
                    }
                    "DNAT" => {
                        assert_eq!(next(), "--to-destination");
                        Target::Dnat(next().to_owned())
                    }
                    "MASQUERADE" => {
                        words.next();
                        Target::Masquerade
                    }
                    chain => Target::Jump(chain.to_owned(), usize::MAX),
                };
                continue;
            }
            other => panic!("{other} in {line}"),
        };
        rule.conditions.push((negated, condition));
        negated = false;
    }
    rule
}

trait IntoCondition {
    fn into_condition(self, make: fn(IpAddr, u32) -> Condition) -> Condition;
}

impl IntoCondition for (IpAddr, u32) {
    fn into_condition(self, make: fn(IpAddr, u32) -> Condition) -> Condition {
        make(self.0, self.1)
    }
}

impl Rules {
    /// Parses the output of `iptables-save`; `local` are the node's addresses.
    pub fn new(saved: &str, local: &[&str]) -> Self {
        let local = local.iter().map(|ip| ip.parse().unwrap()).collect();
        let mut rules = Self { chains: Vec::new(), names: BTreeMap::new(), local };
        let mut table = "";
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(rest) = line.strip_prefix(':') {
                let name = rest.split(' ').next().unwrap();
                rules.names.insert((table.to_owned(), name.to_owned()), rules.chains.len());
                rules.chains.push(Vec::new());
            } else if let Some(rest) = line.strip_prefix("-A ") {
                let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
                let mut rule = parse(rule);
                if let Target::Jump(name, at) = &mut rule.target {
                    *at = rules.names[&(table.to_owned(), name.clone())];
                }
                let at = rules.names[&(table.to_owned(), chain.to_owned())];
                rules.chains[at].push(rule);
            }
        }
        rules
    }

    /// Returns the number of chains with a name prefix.
    pub fn chains_like(&self, prefix: &str) -> usize {
        self.names.keys().filter(|(_, name)| name.starts_with(prefix)).count()
    }

    /// Evaluates the base chains that such a packet traverses.
    pub fn fate(&self, packet: &Packet) -> Fate {
        let start = State { packet: packet.clone(), outcome: Outcome::default(), walked: 0, weight: 1.0 };
        let mut fate = Fate::default();
        let entry = if packet.interface.is_empty() { "OUTPUT" } else { "PREROUTING" };
        for mut state in self.hook("nat", entry, start) {
            // A verdict in nat ends nat, not the packet.
            state.outcome.verdict.clear();
            let to_us = self.is_local(state.packet.destination);
            let filter = match (packet.interface.is_empty(), to_us) {
                (true, _) => "OUTPUT",
                (false, true) => "INPUT",
                (false, false) => "FORWARD",
            };
            for mut state in self.hook("filter", filter, state) {
                let mut ends = vec![];
                if state.outcome.verdict.is_empty() || state.outcome.verdict == "ACCEPT" {
                    state.outcome.verdict.clear();
                    if filter == "INPUT" {
                        ends.push(state);
                    } else {
                        ends = self.hook("nat", "POSTROUTING", state);
                    }
                    for state in &mut ends {
                        "ACCEPT".clone_into(&mut state.outcome.verdict);
                    }
                } else {
                    ends.push(state);
                }
                for state in ends {
                    fate.walked = fate.walked.max(state.walked);
                    #[allow(clippy::cast_precision_loss)] // a few thousand
                    let walked = state.walked as f64;
                    fate.mean += walked * state.weight;
                    *fate.outcomes.entry(state.outcome).or_default() += state.weight;
                }
            }
        }
        fate
    }

    fn hook(&self, table: &str, chain: &str, state: State) -> Vec<State> {
        let mut ends = Vec::new();
        self.walk(self.names[&(table.to_owned(), chain.to_owned())], 0, state, &mut ends);
        ends.into_iter().map(|(Left::Back(state) | Left::Decided(state))| state).collect()
    }

    fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.local.contains(&ip)
    }

    fn walk(&self, chain: usize, depth: usize, mut state: State, ends: &mut Vec<Left>) {
        assert!(depth < 64, "the kernel's limit of nested jumps");
        for rule in &self.chains[chain] {
            state.walked += 1;
            let chance = self.matches(rule, &mut state);
            if chance == 0.0 {
                continue;
            }
            let mut hit = state.clone();
            hit.weight *= chance;
            match &rule.target {
                Target::None => drop(hit),
                Target::Return => ends.push(Left::Back(hit)),
                Target::Verdict(verdict) => {
                    hit.outcome.verdict.clone_from(verdict);
                    ends.push(Left::Decided(hit));
                }
                Target::Dnat(to) => {
                    hit.outcome.destination = Some(to.clone());
                    hit.packet.destination = to.parse::<std::net::SocketAddr>().unwrap().ip();
                    ends.push(Left::Decided(hit));
                }
                Target::Masquerade => {
                    hit.outcome.masqueraded = true;
                    ends.push(Left::Decided(hit));
                }
                Target::SetXmark(value, mask) => {
                    assert!((chance - 1.0).abs() < f64::EPSILON);
                    state.outcome.mark = (state.outcome.mark & !mask) ^ value;
                    continue;
                }
                Target::Jump(to, at) => {
                    if !to.starts_with("KUBE-SVC-DSP-") && to.matches('-').count() == 2 && to.len() >= 24 {
                        hit.outcome.trace.push(to.clone());
                    }
                    let mut below = Vec::new();
                    self.walk(*at, depth + 1, hit, &mut below);
                    let mut back = Vec::new();
                    for left in below {
                        match left {
                            Left::Decided(state) => ends.push(Left::Decided(state)),
                            Left::Back(state) => back.push(state),
                        }
                    }
                    match (chance < 1.0, back.len()) {
                        (false, 0) => return,
                        (false, 1) => {
                            state = back.remove(0);
                            continue;
                        }
                        (true, 0) => {}
                        more => panic!("{more:?} ways out of {to}: not a shape of our rules"),
                    }
                }
            }
            if chance < 1.0 {
                state.weight *= 1.0 - chance;
            } else if !matches!(rule.target, Target::None) {
                return;
            }
        }
        ends.push(Left::Back(state));
    }

    /// Returns the probability that the rule matches, and applies the side effects of its matches.
    fn matches(&self, rule: &Rule, state: &mut State) -> f64 {
        let mut chance = 1.0;
        for (negated, condition) in &rule.conditions {
            let packet = &state.packet;
            let holds = match condition {
                Condition::Source(net, len) => inside(packet.source, (*net, *len)),
                Condition::Destination(net, len) => inside(packet.destination, (*net, *len)),
                Condition::Interface(name) => match name.strip_suffix('+') {
                    Some(prefix) => packet.interface.starts_with(prefix),
                    None => packet.interface == name,
                },
                Condition::Protocol(name) => packet.protocol == name,
                Condition::Ports(low, high) => (*low..=*high).contains(&packet.port),
                Condition::SourceLocal => self.is_local(packet.source),
                Condition::DestinationLocal => self.is_local(packet.destination),
                Condition::States(states) => {
                    states.iter().any(|s| s == "NEW" || (s == "DNAT" && state.outcome.destination.is_some()))
                }
                Condition::Mark(value, mask) => state.outcome.mark & mask == *value,
                Condition::Note(what) => {
                    state.outcome.noted.push(what.clone());
                    true
                }
                Condition::Remembered => packet.remembered,
                Condition::Probability(p) => {
                    chance = *p;
                    true
                }
            };
            if holds == *negated {
                return 0.0;
            }
        }
        chance
    }
}

/// The interpreter is the reference of all other tests, so it is tested itself.
#[test]
fn the_interpreter_walks_as_the_kernel_does() {
    let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:KUBE-SVC-DSP-AAAAAAAAAAAAAAA - [0:0]\n:MARK - [0:0]\n\
        -A PREROUTING -d 10.0.0.0/8 -j KUBE-SVC-DSP-AAAAAAAAAAAAAAA\n-A PREROUTING -m comment --comment \"a -j DROP\" -j MARK --set-xmark 0x8/0x8\n\
        -A POSTROUTING -m mark ! --mark 0x8/0x8 -j RETURN\n-A POSTROUTING -j MASQUERADE --random-fully\n\
        -A KUBE-SVC-DSP-AAAAAAAAAAAAAAA -d 10.0.0.1/32 -p tcp -m tcp --dport 80:81 -j KUBE-SVC-AAAAAAAAAAAAAAAA\n\
        -A KUBE-SVC-AAAAAAAAAAAAAAAA -m statistic --mode random --probability 0.25000000000 -j DNAT --to-destination 10.1.0.1:80\n\
        -A KUBE-SVC-AAAAAAAAAAAAAAAA ! -s 10.9.0.0/16 -p tcp -m tcp -j DNAT --to-destination 10.1.0.2:80\nCOMMIT\n\
        *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n-A FORWARD -d 10.1.0.2/32 -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n";
    let rules = Rules::new(saved, &[]);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let mut packet = Packet {
        source: ip("192.0.2.1"),
        destination: ip("10.0.0.1"),
        protocol: "tcp",
        port: 81,
        interface: "eth0",
        remembered: false,
    };
    let fate = rules.fate(&packet);
    let mut got: Vec<_> =
        fate.outcomes.iter().map(|(o, p)| (o.destination.as_deref(), o.verdict.as_str(), o.mark, *p)).collect();
    assert_eq!(got, [(Some("10.1.0.1:80"), "ACCEPT", 0, 0.25), (Some("10.1.0.2:80"), "REJECT", 0, 0.75)]);
    packet.source = ip("10.9.1.1");
    let fate = rules.fate(&packet);
    got = fate.outcomes.iter().map(|(o, p)| (o.destination.as_deref(), o.verdict.as_str(), o.mark, *p)).collect();
    // After the return from the Service's chain: through the rest of the tree and out of it.
    assert_eq!(got, [(None, "ACCEPT", 8, 0.75), (Some("10.1.0.1:80"), "ACCEPT", 0, 0.25)]);
    assert_eq!(fate.outcomes.keys().map(|o| o.masqueraded).collect::<Vec<_>>(), [true, false]);
    packet.port = 82;
    assert_eq!(rules.fate(&packet).outcomes.into_keys().next().unwrap().trace, Vec::<String>::new());
}
