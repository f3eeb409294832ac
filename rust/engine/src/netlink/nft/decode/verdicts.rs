//! Iterates over a rule's expressions and verdicts, which are readable even if the rest of the rule is not.

use crate::model::names::{ChainId, Table};
use crate::netlink::framing::attributes;
use crate::netlink::nft::messages::{be32, fields, string};
use crate::rules::entry_jumps::FIREWALL;

pub(in crate::netlink::nft) const LIST_ELEMENT: u16 = 1;

pub(in crate::netlink::nft) const REGISTER_VERDICT: u32 = 0;
pub(in crate::netlink::nft) const NF_DROP: u32 = 0;
pub(in crate::netlink::nft) const NF_ACCEPT: u32 = 1;
pub(in crate::netlink::nft) const NFT_JUMP: u32 = 0u32.wrapping_sub(3);
const NFT_GOTO: u32 = 0u32.wrapping_sub(4);
pub(in crate::netlink::nft) const NFT_RETURN: u32 = 0u32.wrapping_sub(5);

/// The verdict of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::netlink::nft) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a [u8]),
    Goto(&'a [u8]),
}

/// Iterates over expressions as `(name, data)`; yields `None` and ends where one is malformed.
pub(in crate::netlink::nft) fn expressions(data: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    attributes(data).map(|attribute| {
        let (LIST_ELEMENT, element) = attribute? else { return None };
        let [None, Some(name), data] = fields::<3>(element)? else { return None };
        Some((string(name)?, data.unwrap_or_default()))
    })
}

/// Iterates over all verdicts of a rule, skipping other expressions.
pub(in crate::netlink::nft) fn verdicts(data: &[u8]) -> impl Iterator<Item = Verdict<'_>> {
    expressions(data).flatten().filter(|(name, _)| *name == b"immediate").filter_map(|(_, data)| verdict(data))
}

/// Returns the verdict that an "immediate" expression loads.
pub(in crate::netlink::nft) fn verdict(data: &[u8]) -> Option<Verdict<'_>> {
    let [None, register, data] = fields::<3>(data)? else { return None };
    (be32(register)? == REGISTER_VERDICT).then_some(())?;
    let [None, None, verdict] = fields::<3>(data?)? else { return None };
    match fields::<3>(verdict?)? {
        [None, code, None] => match be32(code)? {
            NF_DROP => Some(Verdict::Drop),
            NF_ACCEPT => Some(Verdict::Accept),
            NFT_RETURN => Some(Verdict::Return),
            _ => None,
        },
        [None, code, Some(chain)] => match be32(code)? {
            NFT_JUMP => Some(Verdict::Jump(string(chain)?)),
            NFT_GOTO => Some(Verdict::Goto(string(chain)?)),
            _ => None,
        },
        _ => None,
    }
}

/// The effect of an unknown rule on ferrule's chains, according to one of its verdicts.
pub(in crate::netlink::nft) enum RuleEffect {
    None,
    References(ChainId),
    /// It may be an entry jump.
    EntryJump,
}

/// Returns the effect of a verdict in `chain`.
pub(in crate::netlink::nft) fn effect_of(table: Table, chain: &[u8], verdict: Verdict<'_>) -> RuleEffect {
    let firewall = FIREWALL.as_bytes();
    match verdict {
        Verdict::Jump(name) if table == Table::Filter && name == firewall => RuleEffect::EntryJump,
        Verdict::Drop if table == Table::Filter && chain == firewall => RuleEffect::EntryJump,
        Verdict::Jump(name) => match ChainId::parse(table, name) {
            Some(ChainId::Fixed(_)) => RuleEffect::EntryJump,
            Some(id) => RuleEffect::References(id),
            None => RuleEffect::None,
        },
        Verdict::Goto(name) => ChainId::parse(table, name).map_or(RuleEffect::None, RuleEffect::References),
        Verdict::Accept | Verdict::Drop | Verdict::Return => RuleEffect::None,
    }
}
