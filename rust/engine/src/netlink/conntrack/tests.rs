//! Recorded dumps, single decisions, and arbitrary bytes.

use proptest::prelude::*;

use super::wire::{Flow, FlowMessage, delete_request, messages};
use super::*;

/// A dump of Linux 6.18 with these flows: to the Service and a live endpoint (port 1001), to a dead one (1002),
/// untranslated (1003), TCP (1004), zone 7 and a dead one (1005), to another address (1006), ICMP.
const RECORDED_V4: &[u8] = include_bytes!("../../../tests/data/conntrack-ipv4.bin");
/// A dump with flows to the Service and a live endpoint (1001), and to a dead one (1002).
const RECORDED_V6: &[u8] = include_bytes!("../../../tests/data/conntrack-ipv6.bin");

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn target(endpoints: &[&str]) -> Arc<ServingEndpoints> {
    let mut all: Vec<SocketAddr> = endpoints.iter().map(|e| at(e)).collect();
    all.sort_unstable();
    Arc::new(ServingEndpoints::new(all))
}

fn view(
    family: Family,
    addresses: &[(&str, &Arc<ServingEndpoints>)],
    node_ports: &[(u16, &Arc<ServingEndpoints>)],
) -> View {
    let node = NodeAddresses { ips: ["192.0.2.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into(), loopback: true };
    View::new(
        family,
        addresses.iter().map(|(a, t)| (at(a), (*t).clone())).collect(),
        node_ports.iter().map(|(p, t)| (*p, (*t).clone())).collect(),
        node,
    )
}

fn flow(destination: &str, replies_from: &str) -> Flow {
    Flow {
        protocol: UDP,
        source: if at(destination).is_ipv4() { at("10.128.1.1:1000") } else { at("[fd00:1::1]:1000") },
        destination: at(destination),
        replies_from: at(replies_from),
        zone: 0,
        tuple_zone: None,
        id: Some(1),
    }
}

/// Returns the source ports of the flows that requests delete, with their sequence numbers and whether they request an
/// acknowledgement.
fn deleted(found: &StaleFlows) -> Vec<(u16, u32, bool)> {
    let mut requests = found.deletes.clone();
    let mut all = Vec::new();
    let mut rest: &mut [u8] = &mut requests;
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
        assert_eq!(rest[4..6], 0x0102u16.to_ne_bytes(), "IPCTNL_MSG_CT_DELETE");
        let flags = u16::from_ne_bytes([rest[6], rest[7]]);
        let sequence = u32::from_ne_bytes(rest[8..12].try_into().unwrap());
        // Decoded as an entry with an invented reply, because the reader needs both directions.
        let mut entry = rest[..length].to_vec();
        let original = entry[20..].to_vec();
        let tuple_length = usize::from(u16::from_ne_bytes([original[0], original[1]]));
        let mut reply = original[..tuple_length].to_vec();
        reply[2] = 2;
        entry[4..6].copy_from_slice(&0x0100u16.to_ne_bytes());
        entry.extend(reply);
        let whole = u32::try_from(entry.len()).unwrap();
        entry[..4].copy_from_slice(&whole.to_ne_bytes());
        let Some((FlowMessage::Entry(Some(flow)), _)) = messages(&entry).next() else { panic!("{entry:?}") };
        all.push((flow.source.port(), sequence, flags & 4 != 0));
        rest = &mut rest[length..];
    }
    all
}

#[test]
fn recorded_entries_are_read_and_the_stale_ones_deleted() {
    let live = target(&["10.128.2.1:5353"]);
    let found = view(Family::V4, &[("10.96.0.10:53", &live)], &[]).stale(RECORDED_V4);
    assert_eq!((found.seen, found.count, found.done, found.error), (7, 3, true, None));
    let mut ports: Vec<u16> = deleted(&found).iter().map(|d| d.0).collect();
    ports.sort_unstable();
    assert_eq!(ports, [1002, 1003, 1005]);
    assert_eq!(deleted(&found).iter().map(|d| (d.1, d.2)).collect::<Vec<_>>(), [(1, false), (2, false), (3, true)]);
    let zones = RECORDED_V4.windows(2).filter(|w| **w == 7u16.to_be_bytes()).count();
    assert!(zones > 0 && found.deletes.windows(2).any(|w| w == 7u16.to_be_bytes()), "the zone is named");

    let live = target(&["[fd00:10:128:2::1]:5353"]);
    let found = view(Family::V6, &[("[fd00:10:96::10]:53", &live)], &[]).stale(RECORDED_V6);
    assert_eq!((found.seen, found.count), (2, 1));
    assert_eq!(deleted(&found), [(1002, 1, true)]);
}

#[test]
fn a_view_of_the_other_family_or_of_nothing_finds_nothing() {
    let dead = target(&[]);
    assert_eq!(view(Family::V6, &[("10.96.0.10:53", &dead)], &[]).stale(RECORDED_V4).count, 0);
    let empty = view(Family::V4, &[], &[]);
    assert_eq!((empty.frontends(), empty.stale(RECORDED_V4).count), (0, 0));
}

#[test]
fn a_refused_dump_says_why() {
    let mut bytes = vec![0; 20];
    bytes[0] = 20;
    bytes[4..6].copy_from_slice(&2u16.to_ne_bytes());
    bytes[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
    let found = view(Family::V4, &[], &[]).stale(&bytes);
    assert_eq!((found.done, found.error), (true, Some(1)));
}

#[test]
fn an_interrupted_dump_is_noticed() {
    let mut bytes = RECORDED_V6.to_vec();
    bytes[6] |= 0x10;
    assert!(view(Family::V6, &[], &[]).stale(&bytes).interrupted);
    assert!(!view(Family::V6, &[], &[]).stale(RECORDED_V6).interrupted);
}

#[test]
fn node_ports_count_on_this_nodes_addresses_only() {
    let live = target(&["10.128.2.1:5353"]);
    let view = view(Family::V4, &[], &[(30053, &live)]);
    for (destination, replies_from, stale) in [
        ("192.0.2.1:30053", "10.128.2.1:5353", false),
        ("192.0.2.1:30053", "10.128.2.9:5353", true),
        ("192.0.2.1:30053", "192.0.2.1:30053", true),
        ("127.0.0.5:30053", "10.128.2.9:5353", true),
        ("192.0.2.1:30054", "10.128.2.9:5353", false),
        ("192.0.2.99:30053", "192.0.2.99:30053", false),
        ("192.0.2.99:30053", "10.128.2.9:5353", false),
    ] {
        assert_eq!(view.is_stale(&flow(destination, replies_from)), stale, "{destination} {replies_from}");
    }
}

#[test]
fn an_address_decides_before_a_node_port_of_the_same_number() {
    let (own, other) = (target(&["10.128.2.1:5353"]), target(&["10.128.2.2:5353"]));
    let view = view(Family::V4, &[("192.0.2.1:30053", &own)], &[(30053, &other)]);
    assert!(!view.is_stale(&flow("192.0.2.1:30053", "10.128.2.1:5353")));
    assert!(view.is_stale(&flow("192.0.2.1:30053", "10.128.2.2:5353")));
}

#[test]
fn a_node_port_without_endpoints_loses_translated_flows_only() {
    let empty = target(&[]);
    let view = view(Family::V4, &[], &[(30053, &empty)]);
    assert_eq!(view.frontends(), 1);
    for (destination, replies_from, stale) in [
        ("192.0.2.1:30053", "10.128.2.9:5353", true),
        ("127.0.0.1:30053", "10.128.2.9:5353", true),
        ("192.0.2.1:30053", "192.0.2.1:30053", false),
        ("192.0.2.99:30053", "10.128.2.9:5353", false),
    ] {
        assert_eq!(view.is_stale(&flow(destination, replies_from)), stale, "{destination} {replies_from}");
    }
    empty.retire();
    assert!(!view.is_stale(&flow("192.0.2.1:30053", "10.128.2.9:5353")), "it may be an endpoint of the next plan");
}

#[test]
fn a_service_without_endpoints_lets_no_flow_go_on() {
    let view = view(Family::V4, &[("10.96.0.10:53", &target(&[]))], &[]);
    assert!(view.is_stale(&flow("10.96.0.10:53", "10.128.2.9:5353")));
    assert!(view.is_stale(&flow("10.96.0.10:53", "10.96.0.10:53")));
    assert!(!view.is_stale(&flow("10.96.0.10:54", "10.128.2.9:5353")));
}

#[test]
fn only_udp_and_in_other_zones_only_translated_flows() {
    let view = view(Family::V4, &[("10.96.0.10:53", &target(&[]))], &[]);
    let plain = flow("10.96.0.10:53", "10.96.0.10:53");
    for protocol in [1, 6, 132] {
        assert!(!view.is_stale(&Flow { protocol, ..plain }));
    }
    assert!(!view.is_stale(&Flow { zone: 3, ..plain }));
    assert!(!view.is_stale(&Flow { tuple_zone: Some(3), ..plain }));
    assert!(view.is_stale(&Flow { zone: 3, ..flow("10.96.0.10:53", "10.128.2.9:5353") }));
}

#[test]
fn former_frontends_lose_translated_flows_once() {
    let live = target(&["10.128.2.1:5353"]);
    let mut latest = Latest::default();
    let first = latest.renew(view(Family::V4, &[("10.96.0.10:53", &live)], &[(30053, &live)])).unwrap();
    assert_eq!(first.frontends(), 2);
    assert!(latest.renew(view(Family::V4, &[("10.96.0.10:53", &live)], &[(30053, &live)])).is_none());

    let second = latest.renew(view(Family::V4, &[], &[])).unwrap();
    for (destination, replies_from, stale) in [
        ("10.96.0.10:53", "10.128.2.1:5353", true),
        ("10.96.0.10:53", "10.96.0.10:53", false),
        ("192.0.2.1:30053", "10.128.2.1:5353", true),
        ("192.0.2.1:30053", "192.0.2.1:30053", false),
        ("192.0.2.99:30053", "10.128.2.1:5353", false),
    ] {
        assert_eq!(second.is_stale(&flow(destination, replies_from)), stale, "{destination} {replies_from}");
    }
    let third = latest.renew(view(Family::V4, &[("10.96.0.11:53", &live)], &[])).unwrap();
    assert!(!third.is_stale(&flow("10.96.0.10:53", "10.128.2.1:5353")), "done by the view before");
    assert!(third.inheriting(&second).is_stale(&flow("10.96.0.10:53", "10.128.2.1:5353")), "unless it was not");
    let back = latest.renew(view(Family::V4, &[("10.96.0.10:53", &live)], &[])).unwrap().inheriting(&second);
    assert!(
        !back.is_stale(&flow("10.96.0.10:53", "10.128.2.1:5353")),
        "a frontend that exists again is not a former one"
    );
}

#[test]
fn a_retired_target_judges_nothing() {
    let dying = target(&["10.128.2.1:5353"]);
    let view = view(Family::V4, &[("10.96.0.10:53", &dying)], &[]);
    assert!(view.is_stale(&flow("10.96.0.10:53", "10.128.2.9:5353")));
    dying.retire();
    assert!(!view.is_stale(&flow("10.96.0.10:53", "10.128.2.9:5353")), "it may be an endpoint of the next plan");
}

#[test]
fn a_dump_is_requested_of_one_family_and_of_udp_where_the_kernel_can_filter() {
    // A tuple with the protocol, and a filter that compares the protocol in the original direction only.
    const FILTER: [u8; 36] = [
        16, 0, 1, 0x80, 12, 0, 2, 0x80, 5, 0, 1, 0, 17, 0, 0, 0, //
        20, 0, 25, 0x80, 8, 0, 1, 0, 8, 0, 0, 0, 8, 0, 2, 0, 0, 0, 0, 0,
    ];
    for (family, number) in [(Family::V4, 2), (Family::V6, 10)] {
        let plain = [20, 0, 0, 0, 1, 1, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, number, 0, 0, 0];
        let mut filtered = [&plain[..], &FILTER].concat();
        filtered[0] += 36;
        let view = view(family, &[], &[]);
        assert_eq!(view.dump_request(false), plain);
        assert_eq!(view.dump_request(true), filtered);
    }
}

#[test]
fn a_request_always_names_its_entry() {
    for flow in [flow("10.96.0.10:53", "10.128.2.9:5353"), flow("[fd00::10]:53", "[fd00:2::9]:5353")] {
        let mut out = Vec::new();
        delete_request(&Flow { zone: 5, tuple_zone: Some(6), ..flow }, 9, &mut out);
        assert_eq!(u32::from_ne_bytes(out[..4].try_into().unwrap()) as usize, out.len());
        assert_eq!(u16::from_ne_bytes([out[22], out[23]]), 0x8001, "CTA_TUPLE_ORIG, nested, comes first");
    }
}

proptest! {
    #[test]
    fn any_bytes_will_do(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let view = view(Family::V4, &[("10.96.0.10:53", &target(&[]))], &[]);
        let found = view.stale(&bytes);
        prop_assert_eq!(found.count == 0, found.deletes.is_empty());
    }

    #[test]
    fn a_damaged_dump_never_deletes_what_is_not_ours(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut bytes = RECORDED_V4.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let live = target(&["10.128.2.1:5353"]);
        let found = view(Family::V4, &[("10.96.0.10:53", &live)], &[]).stale(&bytes);
        // Every request has the frontend as its destination, whatever happened to the dump.
        let frontend = [10u8, 96, 0, 10];
        prop_assert_eq!(deleted(&found).len(), found.count as usize);
        prop_assert!(found.deletes.windows(4).filter(|w| **w == frontend).count() >= found.count as usize);
    }
}
