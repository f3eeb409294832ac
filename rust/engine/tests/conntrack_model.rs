//! Invariant: for any two consecutive states of a cluster, a view deletes exactly the flows that a naive evaluation of
//! the objects calls stale, and identifies each by its own tuple.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{Engine, Options};
use proptest::prelude::*;
use serde_json::{Value, json};

type At = (Ipv4Addr, u16);

const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const UDP: u8 = 17;

#[derive(Clone, Debug)]
struct Service {
    name: &'static str,
    udp: bool,
    cluster: Ipv4Addr,
    external: Option<Ipv4Addr>,
    balancer: Option<Ipv4Addr>,
    port: u16,
    node_port: Option<u16>,
    /// Address, ready, serving, terminating.
    endpoints: Vec<(Ipv4Addr, bool, bool, bool)>,
}

fn virtual_ip() -> impl Strategy<Value = Ipv4Addr> {
    (1u8..5).prop_map(|d| Ipv4Addr::new(10, 96, 0, d))
}

fn pod() -> impl Strategy<Value = Ipv4Addr> {
    (1u8..6).prop_map(|d| Ipv4Addr::new(10, 128, 0, d))
}

fn node_port() -> impl Strategy<Value = u16> {
    30000u16..30003
}

fn service(name: &'static str) -> impl Strategy<Value = Service> {
    let addresses = (virtual_ip(), prop::option::of(virtual_ip()), prop::option::of(virtual_ip()));
    let endpoints = prop::collection::vec((pod(), any::<bool>(), any::<bool>(), any::<bool>()), 0..4);
    (prop::bool::weighted(0.8), addresses, 53u16..55, prop::option::of(node_port()), endpoints).prop_map(
        move |(udp, (cluster, external, balancer), port, node_port, mut endpoints)| {
            // One endpoint per address: duplicates are not part of this test.
            let mut seen = BTreeSet::new();
            endpoints.retain(|e| seen.insert(e.0));
            Service { name, udp, cluster, external, balancer, port, node_port, endpoints }
        },
    )
}

fn cluster() -> impl Strategy<Value = Vec<Service>> {
    (prop::option::of(service("a")), prop::option::of(service("b")), prop::option::of(service("c")))
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect())
}

#[derive(Clone, Debug)]
struct Flow {
    protocol: u8,
    destination: At,
    replies_from: At,
    zone: u16,
}

fn flow() -> impl Strategy<Value = Flow> {
    let protocol = prop_oneof![5 => Just(UDP), 1 => Just(6u8)];
    let destination = prop_oneof![
        4 => (virtual_ip(), 53u16..55),
        3 => (prop_oneof![Just(NODE_IP), Just(Ipv4Addr::new(127, 3, 2, 1)), Just(Ipv4Addr::new(8, 8, 8, 8))], node_port()),
        1 => (virtual_ip(), node_port()),
    ];
    let pod = (pod(), prop_oneof![3 => Just(5353u16), 1 => Just(9u16)]);
    (protocol, destination, prop::option::weighted(0.8, pod), prop_oneof![4 => Just(0u16), 1 => Just(4u16)]).prop_map(
        |(protocol, destination, pod, zone)| Flow {
            protocol,
            destination,
            replies_from: pod.unwrap_or(destination),
            zone,
        },
    )
}

fn ingest_cluster(engine: &mut Engine, cluster: &[Service]) {
    let mut services: Vec<Value> = Vec::new();
    let mut slices: Vec<Value> = Vec::new();
    for s in cluster {
        let protocol = if s.udp { "UDP" } else { "TCP" };
        let external: Vec<String> = s.external.iter().map(ToString::to_string).collect();
        let ingress: Vec<Value> = s.balancer.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        services.push(json!({
            "metadata": {"name": s.name, "namespace": "n"},
            "spec": {"type": "LoadBalancer", "clusterIP": s.cluster.to_string(), "externalIPs": external,
                "ports": [{"port": s.port, "protocol": protocol, "nodePort": s.node_port.unwrap_or(0)}]},
            "status": {"loadBalancer": {"ingress": ingress}},
        }));
        let endpoints: Vec<Value> = s
            .endpoints
            .iter()
            .map(|(ip, ready, serving, terminating)| {
                json!({
                    "addresses": [ip.to_string()],
                    "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                })
            })
            .collect();
        slices.push(json!({
            "metadata": {"name": s.name, "namespace": "n", "labels": {"kubernetes.io/service-name": s.name}},
            "addressType": "IPv4", "ports": [{"port": 5353, "protocol": protocol}], "endpoints": endpoints,
        }));
    }
    for (kind, items) in [(Kind::Service, services), (Kind::EndpointSlice, slices), (Kind::Node, Vec::new())] {
        engine.replace(kind, &[&serde_json::to_vec(&items).unwrap()]).unwrap();
    }
    if let Some(plan) = engine.plan(Family::V4).unwrap() {
        engine.commit(&plan).unwrap();
    }
}

/// The owner of each UDP frontend, and the endpoints that serve there.
type Frontends<K> = BTreeMap<K, BTreeSet<At>>;

fn frontends(cluster: &[Service]) -> (Frontends<At>, Frontends<u16>) {
    let mut claims: BTreeMap<At, Vec<(u8, &str, &Service)>> = BTreeMap::new();
    let mut ports: BTreeMap<u16, Vec<(&str, &Service)>> = BTreeMap::new();
    for s in cluster.iter().filter(|s| s.udp) {
        let titled = [(0, Some(s.cluster)), (1, s.balancer), (2, s.external)];
        for (title, ip) in titled.into_iter().filter_map(|(t, ip)| ip.map(|ip| (t, ip))) {
            claims.entry((ip, s.port)).or_default().push((title, s.name, s));
        }
        if let Some(port) = s.node_port {
            ports.entry(port).or_default().push((s.name, s));
        }
    }
    let able = |s: &Service| s.endpoints.iter().filter(|e| e.1 || e.2).map(|e| (e.0, 5353)).collect::<BTreeSet<_>>();
    let addresses = claims.into_iter().map(|(at, mut all)| {
        all.sort_by_key(|c| (c.0, c.1));
        (at, able(all[0].2))
    });
    let node_ports = ports.into_iter().map(|(port, mut all)| {
        all.sort_by_key(|c| c.0);
        (port, able(all[0].1))
    });
    (addresses.collect(), node_ports.collect())
}

fn stale(before: &[Service], now: &[Service], flow: &Flow) -> bool {
    let (addresses, node_ports) = frontends(now);
    let (former, former_ports) = frontends(before);
    let translated = flow.destination != flow.replies_from;
    let (ip, port) = flow.destination;
    if flow.protocol != UDP || (flow.zone != 0 && !translated) {
        false
    } else if let Some(serving) = addresses.get(&flow.destination) {
        !serving.contains(&flow.replies_from)
    } else if former.contains_key(&flow.destination) {
        translated
    } else if ip != NODE_IP && !ip.is_loopback() {
        false
    } else if let Some(serving) = node_ports.get(&port) {
        // Without a serving endpoint no rule claims the port: a program on the node may answer there untranslated.
        !serving.contains(&flow.replies_from) && (translated || !serving.is_empty())
    } else {
        translated && former_ports.contains_key(&port)
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn tuple(kind: u16, protocol: u8, source: At, destination: At) -> Vec<u8> {
    let ips = [attribute(1, &source.0.octets()), attribute(2, &destination.0.octets())].concat();
    let ports =
        [attribute(3, &destination.1.to_be_bytes()), attribute(2, &source.1.to_be_bytes()), attribute(1, &[protocol])]
            .concat();
    attribute(kind | 0x8000, &[attribute(2 | 0x8000, &ports), attribute(1 | 0x8000, &ips)].concat())
}

/// Returns an entry whose source port is its number; attributes are in an order that the kernel does not use, among
/// unknown ones.
fn entry(number: u16, flow: &Flow) -> Vec<u8> {
    let client = (Ipv4Addr::new(10, 128, 9, 9), number);
    let mut body = vec![2, 0, 0, 0];
    body.extend(attribute(12, &u32::from(number).to_be_bytes()));
    if flow.zone != 0 {
        body.extend(attribute(18, &flow.zone.to_be_bytes()));
    }
    body.extend(attribute(999, b"of a later kernel"));
    body.extend(tuple(2, flow.protocol, flow.replies_from, client));
    body.extend(tuple(1, flow.protocol, client, flow.destination));
    let mut out = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    out.extend(0x0100u16.to_ne_bytes());
    out.extend([0; 10]);
    out.extend(body);
    out
}

/// Returns the source ports in delete requests for IPv4.
fn deleted(mut requests: &[u8]) -> BTreeSet<u16> {
    const SOURCE_PORT: usize = 60;
    let mut found = BTreeSet::new();
    while let Some(length) = requests.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        found.insert(u16::from_be_bytes([requests[SOURCE_PORT], requests[SOURCE_PORT + 1]]));
        requests = &requests[length..];
    }
    found
}

proptest! {
    #[test]
    fn a_view_deletes_exactly_what_is_stale(
        before in cluster(),
        now in cluster(),
        flows in prop::collection::vec(flow(), 1..60),
    ) {
        let mut engine = Engine::new(Options::new("node-1"));
        engine.observe(Family::V4, b"").unwrap();
        engine.set_local_addresses(&[NODE_IP.to_string(), "127.0.0.1".to_owned(), "fd00::1".to_owned()]).unwrap();
        let dump: Vec<u8> = (0u16..).zip(&flows).flat_map(|(i, f)| entry(i, f)).collect();
        let expected = |before: &[Service], now: &[Service]| {
            (0u16..).zip(&flows).filter(|(_, f)| stale(before, now, f)).map(|(i, _)| i).collect::<BTreeSet<u16>>()
        };

        ingest_cluster(&mut engine, &before);
        let first = engine.conntrack_view(Family::V4).unwrap();
        let found = first.stale(&dump);
        prop_assert_eq!(deleted(&found.deletes), expected(&[], &before));
        prop_assert_eq!(found.seen as usize, flows.len());

        ingest_cluster(&mut engine, &now);
        if let Some(second) = engine.conntrack_view(Family::V4) {
            prop_assert_eq!(deleted(&second.stale(&dump).deletes), expected(&before, &now));
        } else {
            prop_assert_eq!(frontends(&before), frontends(&now));
        }
    }
}
