//! Prints a [`Rule`] exactly as `iptables-save` does.
//!
//! Networks have their prefix length, marks are `--set-xmark`, probabilities are rounded as the kernel rounds them, so
//! that desired and observed rules compare byte for byte.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::model::address::{Family, Net};
use crate::model::names::ChainId;
use crate::model::text::{dotted, number, socket};
use crate::rules::matches::{Match, Side};
use crate::rules::probability::Probability;
use crate::rules::rule::{Rule, Target};

impl Rule {
    /// Appends the rule as `iptables-save` prints it, without `-A CHAIN`; every option is preceded by a blank.
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

/// Appends `-A CHAIN rule` and a newline: the line that digests of ordered chains are computed from.
pub(crate) fn append_line(family: Family, id: ChainId, rule: &Rule, out: &mut Vec<u8>) {
    out.extend_from_slice(b"-A ");
    id.write_name(out);
    rule.write_to(family, out);
    out.push(b'\n');
}

impl Probability {
    /// Appends the probability with eleven decimals, as iptables-save prints it: rounded half to even, in integers,
    /// which takes a tenth of the time of floating point.
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
            // Two blanks, as iptables-save prints.
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

/// Appends blank, address, slash, prefix length. Every other rule has one, so IPv4 avoids the formatting machinery.
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

/// Appends a text as iptables quotes it: without quotes if it holds only word characters. The text never contains a
/// quote or a backslash, so nothing is escaped.
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
    use std::net::Ipv4Addr;

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
