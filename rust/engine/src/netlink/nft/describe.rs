//! Describes a request that the kernel refused in iptables syntax.

use super::decode::rule::decode;
use super::encode::batch::{DELCHAIN, DELRULE, NLM_F_APPEND};
use super::messages::{CHAIN_NAME, NEWCHAIN, NEWRULE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, string};
use crate::model::address::Family;
use crate::model::names::Table;
use crate::netlink::framing::{Header, NFGENMSG, attributes, message};

/// Returns the request with this sequence number, for example `nat: -A KUBE-SVC-… -j KUBE-SEP-…`; `None` if it does not
/// change a chain.
pub(super) fn describe(family: Family, batch: &[u8], sequence: u32) -> Option<String> {
    let mut rest = batch;
    let mut requests = std::iter::from_fn(|| message(&mut rest));
    let (Header { kind, flags, .. }, body) = requests.find(|(header, _)| header.sequence == sequence)?;
    let data = body.get(NFGENMSG..)?;
    let (verb, chain_kind) = match kind {
        NEWRULE if flags & NLM_F_APPEND == 0 => ("-I", RULE_CHAIN),
        NEWRULE => ("-A", RULE_CHAIN),
        DELRULE => ("-F", RULE_CHAIN),
        NEWCHAIN => ("-N", CHAIN_NAME),
        DELCHAIN => ("-X", CHAIN_NAME),
        _ => return None,
    };
    let value = |wanted| attributes(data).flatten().find(|&(kind, _)| kind == wanted).map(|(_, value)| value);
    let table = Table::parse(string(value(RULE_TABLE)?)?)?;
    let chain = String::from_utf8_lossy(string(value(chain_kind)?)?);
    let mut rule = Vec::new();
    if let Some(Ok(read)) = value(RULE_EXPRESSIONS).filter(|_| kind == NEWRULE).map(|data| decode(family, table, data))
    {
        read.write_to(family, &mut rule);
    }
    Some(format!("{}: {verb} {chain}{}", table.name(), String::from_utf8_lossy(&rule)))
}
