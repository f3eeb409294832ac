//! Random clusters and events, as the JSON that an API server would send.

use std::collections::BTreeMap;

use ferrule_engine::Kind;
use ferrule_engine::{BalanceLimits, ChainLayout, TreeLimits};
use proptest::prelude::*;
use serde_json::{Value, json};

/// An event in the cluster or on the connection to it.
#[derive(Clone, Debug)]
pub enum Event {
    Put(Kind, String, Value),
    Delete(Kind, String),
    /// The same object again.
    Repeat,
    /// The watch broke: everything is listed again.
    Relist,
    /// A sync whose restore succeeds.
    Sync,
    /// A sync whose restore fails after this many tables were committed.
    Fail(usize),
    /// The kernel is read back.
    Observe,
    /// Another process flushes a table or removes a chain.
    ForeignEdit(usize),
    /// A foreign rule that references one of the Services' chains is added; the engine is not told.
    Reference(usize),
    /// All such rules are removed; the engine is not told.
    Unreference,
    /// The process restarts, with these settings of `dispatch` (see [`MODES`]) and `balance` (see [`BALANCES`]).
    Restart(usize, usize),
}

/// Every setting of `dispatch`.
pub const MODES: [ChainLayout; 3] = [ChainLayout::Flat, ChainLayout::Tree, ChainLayout::Auto];

/// Every setting of `balance`.
pub const BALANCES: [ChainLayout; 3] = [ChainLayout::Flat, ChainLayout::Tree, ChainLayout::Auto];

/// Limits with which Services as small as these are balanced by trees of all levels, and cross the threshold.
pub const FEW: BalanceLimits = BalanceLimits { auto: 3, tree: 1 };

/// Limits with which clusters as small as these have trees of several levels, and cross the threshold.
pub const SMALL: TreeLimits = TreeLimits { grow: 6, shrink: 4, leaf: 2, depth: 3 };

/// The cluster's objects in the API server.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub objects: BTreeMap<(Kind, String), Value>,
    pub last: Option<(Kind, Value)>,
}

impl World {
    pub fn list(&self, kind: Kind) -> Vec<u8> {
        let items: Vec<&Value> = self.objects.iter().filter(|((k, _), _)| *k == kind).map(|(_, v)| v).collect();
        serde_json::to_vec(&json!({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})).unwrap()
    }
}

fn ip4() -> impl Strategy<Value = String> {
    (1u8..4, 1u8..6).prop_map(|(a, b)| format!("10.96.{a}.{b}"))
}

fn pod4() -> impl Strategy<Value = String> {
    (1u8..4, 1u8..6).prop_map(|(a, b)| format!("10.128.{a}.{b}"))
}

fn port() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just(""), Just("http"), Just("dns")];
    let protocol = prop_oneof![4 => Just("TCP"), 1 => Just("UDP"), 1 => Just("SCTP")];
    (name, protocol, 1u16..5, prop_oneof![2 => Just(0u16), 1 => 30000u16..30004]).prop_map(
        |(name, protocol, port, node)| json!({"name": name, "protocol": protocol, "port": 80 + port, "nodePort": node}),
    )
}

fn policy() -> impl Strategy<Value = &'static str> {
    prop_oneof![2 => Just("Cluster"), 1 => Just("Local")]
}

/// How often a list of addresses repeats its values: mostly not, sometimes beyond what a byte can count.
fn copies() -> impl Strategy<Value = usize> {
    prop_oneof![10 => Just(1usize), 2 => Just(2), 1 => Just(300)]
}

fn repeated<T: Clone>(list: &[T], copies: usize) -> Vec<T> {
    list.iter().cloned().cycle().take(list.len() * copies).collect()
}

fn service() -> impl Strategy<Value = (String, Value)> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")];
    let type_ = prop_oneof![3 => Just("ClusterIP"), 2 => Just("NodePort"), 3 => Just("LoadBalancer"), 1 => Just("ExternalName")];
    let ranges = prop_oneof![
        3 => Just(json!([])), 1 => Just(json!(["203.0.113.0/24"])), 1 => Just(json!(["172.31.250.0/24", " 10.0.0.0/8 "])), 1 => Just(json!(["0.0.0.0/0"])),
    ];
    // A name that comes again with another time is a Service that was deleted and created.
    let created =
        prop_oneof![1 => Just(json!(null)), 2 => (1u8..4).prop_map(|day| json!(format!("2025-01-0{day}T00:00:00Z")))];
    let rest = (policy(), policy(), any::<bool>(), ranges, any::<bool>(), any::<bool>(), created, copies());
    (name, type_, ip4(), prop::collection::vec(port(), 1..3), prop::collection::vec(ip4(), 0..2), prop::collection::vec(ip4(), 0..2), rest).prop_map(
        |(name, type_, ip, ports, external, balancer, rest)| {
            let (internal_policy, external_policy, sticky, ranges, headless, other, created, copies) = rest;
            let (external, balancer) = (repeated(&external, copies), repeated(&balancer, copies));
            let ranges = repeated(ranges.as_array().unwrap(), copies);
            let mut labels = json!({});
            if other && headless {
                labels["service.kubernetes.io/service-proxy-name"] = json!("other");
            }
            let ip = if headless && !other { "None".to_owned() } else { ip };
            let ingress: Vec<Value> = balancer.iter().map(|ip| json!({"ip": ip})).collect();
            let service = json!({
                "kind": "Service",
                "metadata": {"name": name, "namespace": "ns", "labels": labels, "creationTimestamp": created},
                "spec": {
                    "type": type_, "clusterIP": ip, "clusterIPs": [ip, "fd00::5"], "ports": ports, "externalIPs": external,
                    "sessionAffinity": if sticky { "ClientIP" } else { "None" }, "loadBalancerSourceRanges": ranges,
                    "internalTrafficPolicy": internal_policy, "externalTrafficPolicy": external_policy, "healthCheckNodePort": 32000,
                },
                "status": {"loadBalancer": {"ingress": ingress}},
            });
            (name.to_owned(), service)
        },
    )
}

fn endpoint() -> impl Strategy<Value = Value> {
    let node = prop_oneof![Just("node-1"), Just("node-2")];
    let zones = prop_oneof![2 => Just(json!(null)), 1 => Just(json!({"forZones": [{"name": "zone-a"}]})), 1 => Just(json!({"forNodes": [{"name": "node-1"}]}))];
    (pod4(), node, any::<(bool, bool, bool)>(), zones).prop_map(|(ip, node, (ready, serving, terminating), hints)| {
        json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": ready, "serving": serving, "terminating": terminating}, "hints": hints})
    })
}

fn slice() -> impl Strategy<Value = (String, Value)> {
    let service = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")];
    let name = prop_oneof![Just("1"), Just("2")];
    // A few slices are large enough to move the cluster above the thousand endpoints and back.
    let endpoints = prop_oneof![
        8 => prop::collection::vec(endpoint(), 0..5),
        1 => Just((0..1100u32).map(|i| json!({"addresses": [format!("10.129.{}.{}", i / 250, i % 250 + 1)], "nodeName": "node-2"})).collect()),
    ];
    (service, name, prop::collection::vec(port(), 1..3), endpoints, 1..3usize).prop_map(
        |(service, name, ports, endpoints, copies)| {
            let endpoints = if endpoints.len() < 5 { repeated(&endpoints, copies) } else { endpoints };
            let name = format!("{service}-{name}");
            let slice = json!({
                "kind": "EndpointSlice",
                "metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
            });
            (name, slice)
        },
    )
}

fn node() -> impl Strategy<Value = (String, Value)> {
    let zone = prop_oneof![
        Just(json!({})),
        Just(json!({"topology.kubernetes.io/zone": "zone-a"})),
        Just(json!({"topology.kubernetes.io/zone": "zone-b"}))
    ];
    zone.prop_map(|labels| {
        let node = json!({"kind": "Node", "metadata": {"name": "node-1", "labels": labels}, "status": {"addresses": [{"type": "InternalIP", "address": "172.31.250.2"}]}});
        ("node-1".to_owned(), node)
    })
}

pub fn event() -> impl Strategy<Value = Event> {
    let names = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")];
    let slices = prop_oneof![Just("a-1"), Just("a-2"), Just("b-1"), Just("c-1")];
    prop_oneof![
        6 => service().prop_map(|(n, v)| Event::Put(Kind::Service, n, v)),
        8 => slice().prop_map(|(n, v)| Event::Put(Kind::EndpointSlice, n, v)),
        1 => node().prop_map(|(n, v)| Event::Put(Kind::Node, n, v)),
        2 => names.prop_map(|n| Event::Delete(Kind::Service, n.to_owned())),
        2 => slices.prop_map(|n| Event::Delete(Kind::EndpointSlice, n.to_owned())),
        1 => Just(Event::Repeat),
        1 => Just(Event::Relist),
        5 => Just(Event::Sync),
        2 => (0usize..9).prop_map(Event::Fail),
        1 => Just(Event::Observe),
        1 => (0usize..4).prop_map(Event::ForeignEdit),
        1 => (0usize..40).prop_map(Event::Reference),
        1 => Just(Event::Unreference),
        1 => (0..MODES.len(), 0..BALANCES.len()).prop_map(|(d, b)| Event::Restart(d, b)),
    ]
}
