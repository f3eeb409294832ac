//! The subset of ctnetlink in use: dump requests, their entries, delete requests. Linux UAPI only.
//!
//! Headers are in host byte order, the values of conntrack attributes in network byte order.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::model::address::Family;
use crate::netlink::framing::{
    AF_INET, AF_INET6, Header, NFGENMSG, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, address, attributes, errno, message, nest, put, request,
};

const CT_NEW: u16 = 0x0100;
const CT_GET: u16 = 0x0101;
const CT_DELETE: u16 = 0x0102;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Compares the protocol number.
const FILTER_BY_PROTOCOL: u32 = 1 << 3;

/// A tracked flow that has addresses and ports in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) protocol: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// The source of replies: the destination, or what it was translated to.
    pub(super) replies_from: SocketAddr,
    /// The zone of both directions.
    pub(super) zone: u16,
    /// The zone of the original direction only.
    pub(super) tuple_zone: Option<u16>,
    /// Distinguishes an entry from a later one with the same addresses.
    pub(super) id: Option<u32>,
}

impl Flow {
    pub(super) fn in_other_zone(&self) -> bool {
        self.zone != 0 || self.tuple_zone.is_some_and(|zone| zone != 0)
    }
}

/// A netlink message of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowMessage {
    /// An entry; `None` for one without ports, or one that is unreadable.
    Entry(Option<Flow>),
    /// The end of the dump, with the errno of a refusal.
    Done(Option<i32>),
    Other,
}

/// Iterates over the messages of a datagram, each with whether the dump was interrupted; ends at the first truncated
/// one.
pub(super) fn messages(mut data: &[u8]) -> impl Iterator<Item = (FlowMessage, bool)> {
    std::iter::from_fn(move || {
        let (Header { kind, flags, .. }, body) = message(&mut data)?;
        let read = match kind {
            CT_NEW => FlowMessage::Entry(body.get(NFGENMSG..).and_then(flow)),
            NLMSG_DONE | NLMSG_ERROR => FlowMessage::Done(errno(body)),
            _ => FlowMessage::Other,
        };
        Some((read, flags & NLM_F_DUMP_INTR != 0))
    })
}

/// Iterates over attributes in any order; ends at the first truncated one.
fn complete_attributes(data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(data).map_while(|attribute| attribute)
}

#[derive(Default)]
struct Tuple {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: Option<u8>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    zone: Option<u16>,
}

impl Tuple {
    fn source(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.source?, self.source_port?))
    }

    fn destination(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.destination?, self.destination_port?))
    }
}

fn flow(entry: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut zone, mut id) = (None, None, 0, None);
    for (kind, value) in complete_attributes(entry) {
        match kind {
            CTA_TUPLE_ORIG => original = Some(tuple(value)),
            CTA_TUPLE_REPLY => reply = Some(tuple(value)),
            CTA_ZONE => zone = be16(value)?,
            CTA_ID => id = Some(u32::from_be_bytes(value.try_into().ok()?)),
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    let flow = Flow {
        protocol: original.protocol?,
        source: original.source()?,
        destination: original.destination()?,
        replies_from: reply.source()?,
        zone,
        tuple_zone: original.zone,
        id,
    };
    (flow.source.is_ipv4() == flow.destination.is_ipv4()).then_some(flow)
}

fn tuple(value: &[u8]) -> Tuple {
    let mut tuple = Tuple::default();
    for (kind, value) in complete_attributes(value) {
        match kind {
            CTA_TUPLE_IP => {
                for (kind, value) in complete_attributes(value) {
                    match kind {
                        CTA_IP_V4_SRC | CTA_IP_V6_SRC => tuple.source = address(value),
                        CTA_IP_V4_DST | CTA_IP_V6_DST => tuple.destination = address(value),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for (kind, value) in complete_attributes(value) {
                    match kind {
                        CTA_PROTO_NUM => tuple.protocol = value.first().copied(),
                        CTA_PROTO_SRC_PORT => tuple.source_port = be16(value),
                        CTA_PROTO_DST_PORT => tuple.destination_port = be16(value),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_ZONE => tuple.zone = be16(value),
            _ => {}
        }
    }
    tuple
}

fn be16(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

/// Returns a request for all entries of a family, or for those of one protocol only. Linux 5.8 and later filter; earlier
/// versions ignore the attributes or refuse them.
pub(super) fn dump_request(family: Family, only: Option<u8>) -> Vec<u8> {
    let number = match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    };
    let mut out = Vec::with_capacity(64);
    request(CT_GET, NLM_F_DUMP, 1, number, &mut out, |out| {
        let Some(protocol) = only else { return };
        nest(CTA_TUPLE_ORIG, out, |out| nest(CTA_TUPLE_PROTO, out, |out| put(CTA_PROTO_NUM, &[protocol], out)));
        nest(CTA_FILTER, out, |out| {
            put(CTA_FILTER_ORIG_FLAGS, &FILTER_BY_PROTOCOL.to_ne_bytes(), out);
            put(CTA_FILTER_REPLY_FLAGS, &0u32.to_ne_bytes(), out);
        });
    });
    out
}

/// Appends a request that deletes exactly this entry. It always contains the original tuple: the kernel interprets a
/// delete request without one as the whole table.
pub(super) fn delete_request(flow: &Flow, sequence: u32, out: &mut Vec<u8>) {
    let family = if flow.source.is_ipv4() { AF_INET } else { AF_INET6 };
    request(CT_DELETE, 0, sequence, family, out, |out| {
        nest(CTA_TUPLE_ORIG, out, |out| {
            nest(CTA_TUPLE_IP, out, |out| match (flow.source.ip(), flow.destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    put(CTA_IP_V4_SRC, &source.octets(), out);
                    put(CTA_IP_V4_DST, &destination.octets(), out);
                }
                (source, destination) => {
                    put(CTA_IP_V6_SRC, &v6(source).octets(), out);
                    put(CTA_IP_V6_DST, &v6(destination).octets(), out);
                }
            });
            nest(CTA_TUPLE_PROTO, out, |out| {
                put(CTA_PROTO_NUM, &[flow.protocol], out);
                put(CTA_PROTO_SRC_PORT, &flow.source.port().to_be_bytes(), out);
                put(CTA_PROTO_DST_PORT, &flow.destination.port().to_be_bytes(), out);
            });
            if let Some(zone) = flow.tuple_zone {
                put(CTA_TUPLE_ZONE, &zone.to_be_bytes(), out);
            }
        });
        if flow.zone != 0 {
            put(CTA_ZONE, &flow.zone.to_be_bytes(), out);
        }
        if let Some(id) = flow.id {
            put(CTA_ID, &id.to_be_bytes(), out);
        }
    });
}

/// Sets the flag that requests an acknowledgement on success as well.
pub(super) fn ask_for_an_answer(request: &mut [u8]) {
    if let Some(flags) = request.get_mut(6..8) {
        flags.copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    }
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
