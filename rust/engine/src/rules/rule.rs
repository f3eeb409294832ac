//! One iptables rule as a typed value, and the text it is.
//!
//! Text is written exactly as `iptables-save` prints it back (`-d` with its prefix length, marks as `--set-xmark`,
//! probabilities as the kernel rounds them), so that "what we want" and "what is there" compare byte for byte.
//! `rule_parse` is the inverse.
//!
//! Injection-proof by type: every text in a rule is a parsed address, a number, a chain name from
//! [`crate::model::names::ChainId`], an [`Interface`], or a [`Comment`].

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use crate::model::address::{Family, Net};
use crate::model::names::{ChainId, Protocol};

/// An interface name, `+` at its end as a wildcard. At most 15 bytes (the kernel's IFNAMSIZ), nothing that ends a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface(Box<str>);

impl Interface {
    /// `None` when no interface can have that name.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=15).contains(&name.len()) && name != "+";
        let plain = name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'/' | b'!'));
        (fits && plain && !name.starts_with('-')).then(|| Self(name.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A comment that cannot end its own quotes: an allow-list of characters, `_` for the rest, at most 255 bytes (what
/// the kernel's comment match holds; iptables cuts the rest silently).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment(String);

/// See [`Comment`].
pub const COMMENT_LIMIT: usize = 255;

const fn harmless(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
        || matches!(byte, b' ' | b'.' | b'_' | b':' | b'/' | b'%' | b'-' | b',' | b';' | b'>' | b'[' | b']')
}

impl Comment {
    /// Join the parts and make them harmless.
    #[must_use]
    pub fn new(parts: &[&str]) -> Self {
        let mut text = String::with_capacity(parts.iter().map(|p| p.len()).sum());
        if text.capacity() <= COMMENT_LIMIT && parts.iter().all(|p| p.bytes().all(harmless)) {
            text.extend(parts.iter().copied());
            return Self(text);
        }
        for c in parts.iter().flat_map(|p| p.chars()) {
            if text.len() == COMMENT_LIMIT {
                break;
            }
            text.push(if u8::try_from(c).is_ok_and(harmless) { c } else { '_' });
        }
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A match that may be turned round with `!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negatable<T> {
    /// `!` stands before it.
    pub negated: bool,
    /// What is compared.
    pub value: T,
}

impl<T> Negatable<T> {
    /// The plain form.
    pub const fn is(value: T) -> Self {
        Self { negated: false, value }
    }

    /// The form with `!`.
    pub const fn not(value: T) -> Self {
        Self { negated: true, value }
    }
}

/// Which end of the packet `addrtype` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `--src-type LOCAL`
    Source,
    /// `--dst-type LOCAL`
    Destination,
}

/// Sets of conntrack states that our rules use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtState {
    /// Packets that belong to no flow conntrack can follow.
    Invalid,
    /// First packets.
    New,
    /// Packets of known flows.
    RelatedEstablished,
    /// The same and those with a rewritten destination.
    RelatedEstablishedDnat,
}

impl CtState {
    const ALL: [Self; 4] = [Self::Invalid, Self::New, Self::RelatedEstablished, Self::RelatedEstablishedDnat];

    const fn text(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::New => "NEW",
            Self::RelatedEstablished => "RELATED,ESTABLISHED",
            Self::RelatedEstablishedDnat => "RELATED,ESTABLISHED,DNAT",
        }
    }

    /// The set in the kernel's bits (`XT_CONNTRACK_STATE_*`).
    pub(crate) const fn bits(self) -> u16 {
        const INVALID: u16 = 1;
        const ESTABLISHED: u16 = 1 << 1;
        const RELATED: u16 = 1 << 2;
        const NEW: u16 = 1 << 3;
        const DNAT: u16 = 1 << 7;
        match self {
            Self::Invalid => INVALID,
            Self::New => NEW,
            Self::RelatedEstablished => RELATED | ESTABLISHED,
            Self::RelatedEstablishedDnat => RELATED | ESTABLISHED | DNAT,
        }
    }

    pub(crate) fn of_bits(bits: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.bits() == bits)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.text() == text)
    }
}

/// Counter objects of the nfacct subsystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `ct_state_invalid_dropped_pkts`
    InvalidDropped,
    /// `localhost_nps_accepted_pkts`
    LocalhostAccepted,
}

impl Counter {
    const ALL: [Self; 2] = [Self::InvalidDropped, Self::LocalhostAccepted];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::InvalidDropped => "ct_state_invalid_dropped_pkts",
            Self::LocalhostAccepted => "localhost_nps_accepted_pkts",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.text() == text)
    }
}

/// `--probability`, in the kernel's unit of 2⁻³¹.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probability(pub(crate) u32);

impl Probability {
    const ONE: f64 = 2_147_483_648.0;

    /// 1/n as kube-proxy hands it to iptables: rounded to ten decimals first.
    #[must_use]
    pub fn one_in(n: usize) -> Self {
        // Nearly all that are ever asked for; by way of their text they cost a start a twentieth of its time.
        static OFTEN: LazyLock<[Probability; 128]> =
            LazyLock::new(|| std::array::from_fn(|n| Probability::by_text(1, n)));
        OFTEN.get(n).copied().unwrap_or_else(|| Self::by_text(1, n))
    }

    /// part/whole, in the same way.
    #[must_use]
    pub fn of(part: usize, whole: usize) -> Self {
        if part == 1 { Self::one_in(whole) } else { Self::by_text(part, whole) }
    }

    fn by_text(part: usize, whole: usize) -> Self {
        #[allow(clippy::cast_precision_loss)] // an endpoint count is far below 2^52
        let exact = part as f64 / whole.max(1) as f64;
        Self::from_text(&format!("{exact:.10}")).unwrap_or(Self(1 << 31))
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let p: f64 = text.parse().ok()?;
        if !(0.0..=1.0).contains(&p) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 ≤ p·2³¹ ≤ 2³¹
        Some(Self((p * Self::ONE).round() as u32))
    }

    /// With eleven decimals, as iptables-save prints it: rounded half to even, in integers, which takes a tenth of the
    /// time that a float does.
    fn write_to(self, out: &mut Vec<u8>) {
        const DECIMALS: usize = 11;
        const UNIT: u128 = 10u128.pow(11);
        const HALF: u128 = 1 << 30;
        let exact = u128::from(self.0) * UNIT;
        let (floor, rest) = (exact >> 31, exact & (2 * HALF - 1));
        let up = rest > HALF || rest == HALF && floor & 1 == 1;
        let mut value = floor + u128::from(up);
        let mut digits = [b'0'; DECIMALS + 2];
        for (at, digit) in digits.iter_mut().enumerate().rev() {
            if at == 1 {
                *digit = b'.';
                continue;
            }
            *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

/// An extension match.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the iptables match of its name
pub enum Match {
    Comment(Comment),
    LocalAddress(Side),
    /// `-m tcp [--dport N]`: the protocol's own match, present wherever kube-proxy writes `-m tcp`.
    Port {
        protocol: Protocol,
        destination: Option<u16>,
    },
    /// `-m tcp --dport LOW:HIGH`, LOW below HIGH.
    PortRange {
        protocol: Protocol,
        low: u16,
        high: u16,
    },
    Conntrack(Negatable<CtState>),
    Mark {
        negated: bool,
        value: u32,
        mask: u32,
    },
    Nfacct(Counter),
    RecentCheck {
        list: ChainId,
        seconds: u32,
    },
    RecentSet {
        list: ChainId,
    },
    Statistic(Probability),
}

/// What happens to a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the iptables target of its name
pub enum Target {
    Jump(ChainId),
    /// `KUBE-FIREWALL`, which is kubelet's as much as ours.
    JumpFirewall,
    Accept,
    Drop,
    Return,
    Reject,
    SetXmark {
        value: u32,
        mask: u32,
    },
    Masquerade {
        random_fully: bool,
    },
    Dnat(SocketAddr),
}

/// One rule. Header fields first, then matches in the order they are evaluated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // fields are iptables' own options
pub struct Rule {
    pub source: Option<Negatable<Net>>,
    pub destination: Option<Negatable<Net>>,
    pub in_interface: Option<Negatable<Interface>>,
    pub protocol: Option<Protocol>,
    pub matches: Vec<Match>,
    pub target: Option<Target>,
}

impl Rule {
    /// A rule that starts with a comment, as most of ours do.
    #[must_use]
    pub fn commented(comment: Comment) -> Self {
        let mut matches = Vec::with_capacity(3);
        matches.push(Match::Comment(comment));
        Self { matches, ..Self::default() }
    }

    /// Source inside (or, negated, outside) a network. `/0` matches everything and is left out, as the kernel does.
    #[must_use]
    pub fn from(mut self, net: Negatable<Net>) -> Self {
        self.source = Some(net).filter(|n| n.negated || !n.value.is_everything());
        self
    }

    /// Destination, likewise.
    #[must_use]
    pub fn to(mut self, net: Negatable<Net>) -> Self {
        self.destination = Some(net).filter(|n| n.negated || !n.value.is_everything());
        self
    }

    /// Arriving interface.
    #[must_use]
    pub fn through(mut self, interface: Negatable<Interface>) -> Self {
        self.in_interface = Some(interface);
        self
    }

    /// Protocol and, unless `None`, destination port.
    #[must_use]
    pub fn port(mut self, protocol: Protocol, destination: Option<u16>) -> Self {
        self.protocol = Some(protocol);
        self.with(Match::Port { protocol, destination })
    }

    /// One more match.
    #[must_use]
    pub fn with(mut self, m: Match) -> Self {
        self.matches.push(m);
        self
    }

    /// Jump to a chain of ours.
    #[must_use]
    pub fn jump(self, chain: ChainId) -> Self {
        self.target(Target::Jump(chain))
    }

    /// Any target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// Append the rule as `iptables-save` prints it, without `-A CHAIN`; every option is preceded by a blank.
    pub fn write_to(&self, family: Family, out: &mut Vec<u8>) {
        if let Some(net) = &self.source {
            option(out, net.negated, "-s");
            network(out, &net.value);
        }
        if let Some(net) = &self.destination {
            option(out, net.negated, "-d");
            network(out, &net.value);
        }
        if let Some(interface) = &self.in_interface {
            option(out, interface.negated, "-i");
            word(out, interface.value.as_str());
        }
        if let Some(protocol) = self.protocol {
            put(out, " -p");
            word(out, protocol.name());
        }
        for m in &self.matches {
            m.write_to(family, out);
        }
        if let Some(target) = &self.target {
            target.write_to(family, out);
        }
    }
}

impl Match {
    fn write_to(&self, family: Family, out: &mut Vec<u8>) {
        match self {
            Self::Comment(comment) => {
                put(out, " -m comment --comment ");
                quoted(out, comment.as_str());
            }
            Self::LocalAddress(Side::Source) => put(out, " -m addrtype --src-type LOCAL"),
            Self::LocalAddress(Side::Destination) => put(out, " -m addrtype --dst-type LOCAL"),
            Self::Port { protocol, destination } => {
                put(out, " -m");
                word(out, protocol.name());
                if let Some(port) = destination {
                    put(out, " --dport ");
                    number(out, u32::from(*port));
                }
            }
            Self::PortRange { protocol, low, high } => {
                put(out, " -m");
                word(out, protocol.name());
                put(out, " --dport ");
                number(out, u32::from(*low));
                out.push(b':');
                number(out, u32::from(*high));
            }
            Self::Conntrack(states) => {
                put(out, " -m conntrack");
                option(out, states.negated, "--ctstate");
                word(out, states.value.text());
            }
            Self::Mark { negated, value, mask } => {
                put(out, " -m mark");
                option(out, *negated, "--mark");
                display(out, &format_args!("{value:#x}/{mask:#x}"));
            }
            // Two blanks: iptables' own save has them, and so has the text we compare with.
            Self::Nfacct(counter) => {
                put(out, " -m nfacct --nfacct-name ");
                word(out, counter.text());
            }
            Self::RecentCheck { list, seconds } => {
                put(out, " -m recent --rcheck --seconds ");
                number(out, *seconds);
                put(out, " --reap --name ");
                list.write_name(out);
                put(out, recent_mask(family));
            }
            Self::RecentSet { list } => {
                put(out, " -m recent --set --name ");
                list.write_name(out);
                put(out, recent_mask(family));
            }
            Self::Statistic(probability) => {
                put(out, " -m statistic --mode random --probability ");
                probability.write_to(out);
            }
        }
    }
}

const fn recent_mask(family: Family) -> &'static str {
    match family {
        Family::V4 => " --mask 255.255.255.255 --rsource",
        Family::V6 => " --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource",
    }
}

impl Target {
    fn write_to(&self, family: Family, out: &mut Vec<u8>) {
        put(out, " -j ");
        match self {
            Self::Jump(chain) => chain.write_name(out),
            Self::JumpFirewall => put(out, "KUBE-FIREWALL"),
            Self::Accept => put(out, "ACCEPT"),
            Self::Drop => put(out, "DROP"),
            Self::Return => put(out, "RETURN"),
            Self::Reject => put(
                out,
                match family {
                    Family::V4 => "REJECT --reject-with icmp-port-unreachable",
                    Family::V6 => "REJECT --reject-with icmp6-port-unreachable",
                },
            ),
            Self::SetXmark { value, mask } => {
                put(out, "MARK --set-xmark");
                display(out, &format_args!("{value:#x}/{mask:#x}"));
            }
            Self::Masquerade { random_fully: true } => put(out, "MASQUERADE --random-fully"),
            Self::Masquerade { random_fully: false } => put(out, "MASQUERADE"),
            Self::Dnat(to) => {
                put(out, "DNAT --to-destination ");
                socket(out, to);
            }
        }
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn word(out: &mut Vec<u8>, text: &str) {
    out.push(b' ');
    put(out, text);
}

fn option(out: &mut Vec<u8>, negated: bool, name: &str) {
    put(out, if negated { " ! " } else { " " });
    put(out, name);
}

fn number(out: &mut Vec<u8>, n: u32) {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    let mut rest = n;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Blank, address, slash, prefix length. Every other rule has one, so IPv4 goes without the formatting machinery.
fn network(out: &mut Vec<u8>, net: &Net) {
    match net.addr() {
        IpAddr::V4(ip) => {
            out.push(b' ');
            dotted(out, ip);
            out.push(b'/');
            number(out, u32::from(net.prefix_len()));
        }
        IpAddr::V6(_) => display(out, net),
    }
}

fn dotted(out: &mut Vec<u8>, ip: Ipv4Addr) {
    let [first, rest @ ..] = ip.octets();
    number(out, u32::from(first));
    for octet in rest {
        out.push(b'.');
        number(out, u32::from(octet));
    }
}

/// Address and port. Each endpoint has one, so IPv4 goes without the formatting machinery.
pub(crate) fn socket(out: &mut Vec<u8>, to: &SocketAddr) {
    match to {
        SocketAddr::V4(to) => {
            dotted(out, *to.ip());
            out.push(b':');
            number(out, u32::from(to.port()));
        }
        SocketAddr::V6(to) => put(out, &to.to_string()),
    }
}

fn display(out: &mut Vec<u8>, value: &dyn std::fmt::Display) {
    struct Sink<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Sink<'_> {
        fn write_str(&mut self, s: &str) -> std::fmt::Result {
            put(self.0, s);
            Ok(())
        }
    }
    out.push(b' ');
    // Writing into a Vec cannot fail.
    let _ = write!(Sink(out), "{value}");
}

/// iptables prints a text without quotes when it holds only word characters, else with; ours can hold neither a
/// quote nor a backslash, so nothing is ever escaped.
fn quoted(out: &mut Vec<u8>, text: &str) {
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare {
        put(out, text);
    } else {
        out.push(b'"');
        put(out, text);
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_cannot_leave_their_quotes() {
        let comment = Comment::new(&["a\"b\n-A INPUT -j ACCEPT\n\"", "\\", "é"]);
        assert_eq!(comment.as_str(), "a_b_-A INPUT -j ACCEPT____");
        assert_eq!(Comment::new(&[&"x".repeat(400)]).as_str().len(), COMMENT_LIMIT);
    }

    #[test]
    fn interfaces_are_words_of_fifteen() {
        for bad in ["", "+", "sixteen-letters-", "a b", "a\"b", "eth0\n", "-i", "ä", "a/b"] {
            assert_eq!(Interface::new(bad), None, "{bad:?}");
        }
        assert!(Interface::new("cali+").is_some());
    }

    #[test]
    fn numbers_are_written_as_the_library_would() {
        let spread = (0..1 << 17).map(|n: u32| n.wrapping_mul(0x9e37_79b9) >> 1);
        for threshold in [0, 1, 1 << 30, (1 << 31) - 1, 1 << 31].into_iter().chain(spread) {
            let mut out = Vec::new();
            Probability(threshold).write_to(&mut out);
            let want = format!("{:.11}", f64::from(threshold) / Probability::ONE);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{threshold}");
        }
        for bits in (0..1 << 12).map(|n: u32| n.wrapping_mul(0x9e37_79b9)) {
            let (ip, length) = (Ipv4Addr::from_bits(bits), u8::try_from(bits % 33).unwrap());
            let net = Net::new(IpAddr::V4(ip), length);
            let mut out = Vec::new();
            network(&mut out, &net);
            assert_eq!(String::from_utf8(out).unwrap(), format!(" {net}"));
        }
    }

    #[test]
    fn probabilities_are_what_the_kernel_prints_back() {
        // Recorded from iptables-save after restoring kube-proxy's ten decimals.
        for (n, printed) in [(2, "0.50000000000"), (3, "0.33333333349"), (4, "0.25000000000"), (6, "0.16666666651")] {
            let mut out = Vec::new();
            Match::Statistic(Probability::one_in(n)).write_to(Family::V4, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(text.ends_with(printed), "1/{n}: {text}");
        }
    }
}
