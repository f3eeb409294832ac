//! Decodes an `nf_tables` rule into a [`Rule`].
//!
//! iptables-nft encodes a rule's header and some matches natively, as pairs of expressions: a load into a register and
//! a comparison of that register. All other matches are extensions ("match", "target") with their old structures. A
//! verdict comes last. Which matches are native differs between versions: both forms decode to the same [`Rule`].
//!
//! Decoding is strict: anything that is not fully understood is [`Unknown`], foreign rules included.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::extensions::{a_match, a_target, match_ports};
use super::verdicts::{REGISTER_VERDICT, Verdict, expressions, verdict};
use crate::model::address::{Family, Net};
use crate::model::interface::Interface;
use crate::model::names::{ChainId, Protocol, Table};
use crate::netlink::nft::messages::{be32, fields};
use crate::rules::matches::{Match, Negatable};
use crate::rules::rule::{Rule, Target};

pub(in crate::netlink::nft) const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

const META_MARK: u32 = 3;
pub(in crate::netlink::nft) const META_IIFNAME: u32 = 6;
pub(in crate::netlink::nft) const META_L4PROTO: u32 = 16;

pub(in crate::netlink::nft) const CMP_EQ: u32 = 0;
pub(in crate::netlink::nft) const CMP_NEQ: u32 = 1;
const CMP_LTE: u32 = 3;
const CMP_GTE: u32 = 5;
const RANGE_EQ: u32 = 0;
const BITWISE_MASK_XOR: u32 = 0;

/// The expression at which decoding failed.
#[derive(Clone, Copy, Debug)]
pub(in crate::netlink::nft) struct Unknown<'a> {
    name: &'a [u8],
    data: &'a [u8],
}

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(self.name))?;
        if !matches!(self.name, b"match" | b"target") {
            return Ok(());
        }
        let Some([_, Some(extension), revision, _]) = fields::<4>(self.data) else { return Ok(()) };
        let extension = String::from_utf8_lossy(extension.strip_suffix(b"\0").unwrap_or(extension));
        write!(f, " {extension} of revision {}", be32(revision).unwrap_or_default())
    }
}

/// Decodes a rule of `table` from the list of its expressions.
pub(in crate::netlink::nft) fn decode(family: Family, table: Table, data: &[u8]) -> Result<Rule, Unknown<'_>> {
    let mut decoder = Decoder { family, table, rule: Rule::default(), loaded: None };
    for expression in expressions(data) {
        let (name, data) = expression.ok_or(Unknown { name: b"a malformed one", data: &[] })?;
        decoder.expression(name, data).ok_or(Unknown { name, data })?;
    }
    match decoder.loaded {
        None => Ok(decoder.rule),
        Some(_) => Err(Unknown { name: b"a load that is not compared", data: &[] }),
    }
}

/// The content of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Source,
    Destination,
    InInterface,
    Protocol,
    DestinationPort,
    Mark,
}

/// A loaded field that awaits its comparison.
#[derive(Clone, Copy, Debug)]
struct Loaded<'a> {
    field: Field,
    register: u32,
    /// Width in bytes; 0 if the comparison determines it.
    width: usize,
    mask: Option<&'a [u8]>,
}

struct Decoder<'a> {
    family: Family,
    table: Table,
    rule: Rule,
    loaded: Option<Loaded<'a>>,
}

impl<'a> Decoder<'a> {
    fn expression(&mut self, name: &[u8], data: &'a [u8]) -> Option<()> {
        // A verdict ends a rule, and only a mask may stand between a load and its comparison.
        let half_way = self.loaded.is_some();
        (self.rule.target.is_none() && half_way == matches!(name, b"bitwise" | b"cmp" | b"range")).then_some(())?;
        match name {
            b"payload" => self.payload(data),
            b"meta" => self.meta(data),
            b"bitwise" => self.bitwise(data),
            b"cmp" => self.cmp(data),
            b"range" => self.range(data),
            b"counter" => fields::<4>(data).map(drop),
            b"match" => {
                let found = a_match(self.family, self.rule.protocol, data)?;
                self.rule.matches.push(found);
                Some(())
            }
            b"target" => {
                self.rule.target = Some(a_target(self.family, self.table, data)?);
                Some(())
            }
            b"immediate" => {
                self.rule.target = Some(match verdict(data)? {
                    Verdict::Accept => Target::Accept,
                    Verdict::Drop => Target::Drop,
                    Verdict::Return => Target::Return,
                    Verdict::Jump(b"KUBE-FIREWALL") if self.table == Table::Filter => Target::JumpFirewall,
                    Verdict::Jump(chain) => Target::Jump(ChainId::parse(self.table, chain)?),
                    Verdict::Goto(_) => return None,
                });
                Some(())
            }
            _ => None,
        }
    }

    fn load(&mut self, field: Field, register: Option<&[u8]>, width: usize) -> Option<()> {
        let register = be32(register)?;
        (register != REGISTER_VERDICT).then_some(())?;
        self.loaded = Some(Loaded { field, register, width, mask: None });
        Some(())
    }

    fn payload(&mut self, data: &[u8]) -> Option<()> {
        let [None, register, base, offset, length] = fields::<5>(data)? else { return None };
        let width = usize::try_from(be32(length)?).ok()?;
        let field = match (self.family, be32(base)?, be32(offset)?) {
            (Family::V4, NETWORK_HEADER, 12) | (Family::V6, NETWORK_HEADER, 8) => Field::Source,
            (Family::V4, NETWORK_HEADER, 16) | (Family::V6, NETWORK_HEADER, 24) => Field::Destination,
            // Old versions compare the protocol in this form.
            (Family::V4, NETWORK_HEADER, 9) => Field::Protocol,
            (_, TRANSPORT_HEADER, 2) => Field::DestinationPort,
            _ => return None,
        };
        let fits = match field {
            Field::DestinationPort => width == 2,
            Field::Protocol => width == 1,
            _ => (1..=usize::from(self.family.host_bits() / 8)).contains(&width),
        };
        fits.then_some(())?;
        self.load(field, register, width)
    }

    fn meta(&mut self, data: &[u8]) -> Option<()> {
        let [None, register, key] = fields::<3>(data)? else { return None };
        let (field, width) = match be32(key)? {
            META_MARK => (Field::Mark, 4),
            META_IIFNAME => (Field::InInterface, 0),
            META_L4PROTO => (Field::Protocol, 1),
            _ => return None,
        };
        self.load(field, register, width)
    }

    fn bitwise(&mut self, data: &'a [u8]) -> Option<()> {
        let [None, from, to, length, mask, xor, operation] = fields::<7>(data)? else { return None };
        let plain = operation.is_none_or(|op| be32(Some(op)) == Some(BITWISE_MASK_XOR));
        let (mask, xor) = (value(mask)?, value(xor)?);
        let loaded = self.loaded.as_mut()?;
        let all = [mask.len(), xor.len(), usize::try_from(be32(length)?).ok()?];
        let whole = loaded.width > 0 && all.iter().all(|&n| n == loaded.width);
        let ours = be32(from)? == loaded.register && loaded.mask.is_none();
        (plain && whole && ours && xor.iter().all(|&b| b == 0)).then_some(())?;
        loaded.register = be32(to)?;
        loaded.mask = Some(mask);
        Some(())
    }

    fn cmp(&mut self, data: &[u8]) -> Option<()> {
        let [None, register, operation, data] = fields::<4>(data)? else { return None };
        let loaded = self.loaded.take().filter(|l| be32(register) == Some(l.register))?;
        let value = value(data)?;
        (loaded.width == 0 || loaded.width == value.len()).then_some(())?;
        let operation = be32(operation)?;
        if loaded.field == Field::DestinationPort {
            let port = u16::from_be_bytes(value.try_into().ok()?);
            let (low, high) = match operation {
                CMP_EQ => (port, port),
                CMP_LTE => (0, port),
                CMP_GTE => (port, u16::MAX),
                _ => return None,
            };
            return self.ports(loaded, low, high);
        }
        let negated = match operation {
            CMP_EQ => false,
            CMP_NEQ => true,
            _ => return None,
        };
        self.compared(loaded, value, negated)
    }

    fn range(&mut self, data: &[u8]) -> Option<()> {
        let [None, register, operation, from, to] = fields::<5>(data)? else { return None };
        let loaded = self.loaded.take().filter(|l| be32(register) == Some(l.register))?;
        (loaded.field == Field::DestinationPort && be32(operation)? == RANGE_EQ).then_some(())?;
        let port = |data| value(data)?.try_into().ok().map(u16::from_be_bytes);
        self.ports(loaded, port(from)?, port(to)?)
    }

    fn ports(&mut self, loaded: Loaded<'_>, low: u16, high: u16) -> Option<()> {
        // These bytes are a port only if the protocol was compared before.
        let protocol = self.rule.protocol.filter(|p| loaded.mask.is_none() && *p != Protocol::Sctp)?;
        self.rule.matches.push(match_ports(protocol, low, high)?);
        Some(())
    }

    fn compared(&mut self, loaded: Loaded<'_>, value: &[u8], negated: bool) -> Option<()> {
        if loaded.field == Field::Mark {
            let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
            let mask = loaded.mask.map_or(Some(u32::MAX), number)?;
            self.rule.matches.push(Match::Mark { negated, value: number(value)?, mask });
            return Some(());
        }
        // The text form has the header before all matches. A header field after a match with a side effect would have
        // another meaning.
        self.rule.matches.is_empty().then_some(())?;
        let new = match loaded.field {
            Field::Source | Field::Destination => {
                let net = Negatable { negated, value: net(self.family, value, loaded.mask)? };
                let slot = match loaded.field {
                    Field::Source => &mut self.rule.source,
                    _ => &mut self.rule.destination,
                };
                slot.replace(net).is_none()
            }
            Field::InInterface => {
                let interface = Negatable { negated, value: interface(value)? };
                self.rule.in_interface.replace(interface).is_none()
            }
            Field::Protocol => {
                let &[number] = value else { return None };
                let protocol = Protocol::ALL
                    .into_iter()
                    .find(|p| p.number() == number)
                    .filter(|_| !negated && loaded.mask.is_none())?;
                self.rule.protocol.replace(protocol).is_none()
            }
            Field::DestinationPort | Field::Mark => return None,
        };
        new.then_some(())
    }
}

/// Returns the bytes of a comparison, a mask or a range's end.
fn value(data: Option<&[u8]>) -> Option<&[u8]> {
    let [None, value] = fields::<2>(data?)? else { return None };
    value
}

/// Returns a network, of which possibly only the leading bytes were loaded.
fn net(family: Family, value: &[u8], mask: Option<&[u8]>) -> Option<Net> {
    let mut bytes = [0; 16];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    let bits = match mask {
        None => 8 * value.len(),
        Some(mask) => prefix(mask)?,
    };
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(bytes)),
    };
    // A comparison with bits outside its mask never holds (or, negated, always).
    Some(Net::new(address, u8::try_from(bits).ok()?)).filter(|net| net.addr() == address)
}

/// Returns the number of leading ones of a mask, or `None` if it has others.
fn prefix(mask: &[u8]) -> Option<usize> {
    let ones: usize = mask.iter().map(|b| b.count_ones() as usize).sum();
    let leading = mask.iter().take_while(|&&b| b == 0xff).count();
    let split = mask.get(leading).map_or(0, |b| b.leading_ones() as usize);
    (8 * leading + split == ones).then_some(ones)
}

/// Returns an interface name: padded with NULs it is complete, without them it is a prefix.
fn interface(value: &[u8]) -> Option<Interface> {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    let (name, rest) = value.split_at(end);
    (value.len() <= 16 && rest.iter().all(|&b| b == 0)).then_some(())?;
    let name = std::str::from_utf8(name).ok()?;
    if rest.is_empty() {
        Interface::new(&format!("{name}+"))
    } else {
        Interface::new(name).filter(|_| !name.ends_with('+'))
    }
}
