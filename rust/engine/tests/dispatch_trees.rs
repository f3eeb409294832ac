//! Invariant: for every packet, trees have the outcome of flat chains: the same Service, the same endpoints with the
//! same probabilities, the same masquerade, the same refusal; also in every state between two transactions of a switch.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::{IpAddr, Ipv4Addr};

use common::cluster::{BALANCES, Event, FEW, SMALL, World, event};
use common::kernel::Kernel;
use common::packet::{Packet, Rules};
use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{ChainLayout, Engine, Options, Plan, TreeLimits, WriteStrategy};
use proptest::prelude::*;
use serde_json::{Value, json};

const LOCAL: [&str; 2] = ["127.0.0.1", "172.31.250.2"];

fn options(variant: u8, dispatch: ChainLayout, leaf: usize) -> Options {
    let mut options = Options::new("node-1");
    options.dispatch = dispatch;
    options.tree_limits = TreeLimits { leaf, ..SMALL };
    options.balance_limits = FEW;
    options.nfacct_localhost_accepted = variant & 1 != 0;
    options.masquerade_all = variant & 2 != 0;
    options.localhost_node_ports = variant & 4 == 0;
    if variant & 8 != 0 {
        options.set_node_port_addresses(&["172.31.250.0/24", "localhost"]).unwrap();
    }
    let (mode, interface) =
        [("None", ""), ("ClusterCIDR", ""), ("InterfaceNamePrefix", "cali")][usize::from(variant >> 4) % 3];
    options.set_local_detector(mode, &["10.128.0.0/10"], interface).unwrap();
    options
}

fn written(world: &World, options: Options) -> (Engine, Kernel) {
    let (mut engine, mut kernel) = (Engine::new(options), Kernel::new());
    engine.set_local_addresses(&LOCAL).unwrap();
    for kind in Kind::ALL {
        engine.replace(kind, &[&world.list(kind)]).unwrap();
    }
    engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
    let plan = engine.plan(Family::V4).unwrap().unwrap();
    kernel.restore(&plan.payload(), usize::MAX).unwrap();
    engine.commit(&plan).unwrap();
    (engine, kernel)
}

fn world(events: Vec<Event>) -> World {
    let mut world = World::default();
    for event in events {
        if let Event::Put(kind, name, object) = event {
            world.objects.insert((kind, name), object);
        }
    }
    world
}

/// Addresses and ports of the clusters of `cluster.rs`, and adjacent ones.
fn packet() -> impl Strategy<Value = Packet> {
    let cluster = (0u8..6, 0u8..8).prop_map(|(a, b)| IpAddr::from([10, 96, a, b]));
    let other =
        prop_oneof![Just("172.31.250.2"), Just("127.0.0.1"), Just("127.0.0.9"), Just("192.0.2.1"), Just("10.128.1.1")];
    let destination = prop_oneof![3 => cluster, 2 => other.prop_map(|ip| ip.parse().unwrap())];
    let protocol = prop_oneof![4 => Just("tcp"), 1 => Just("udp"), 1 => Just("sctp"), 1 => Just("icmp")];
    let port = prop_oneof![4 => 80u16..87, 3 => 29999u16..30005, 1 => Just(32000), 1 => any::<u16>()];
    let origin = prop_oneof![
        Just(("203.0.113.5", "eth0")),
        Just(("172.31.250.9", "eth0")),
        Just(("10.128.1.1", "cali7")),
        Just(("10.96.1.1", "eth0")),
        Just(("172.31.250.2", "")),
        Just(("127.0.0.1", "")),
    ];
    (origin, destination, protocol, port, any::<bool>()).prop_map(
        |((source, interface), destination, protocol, port, remembered)| Packet {
            source: source.parse().unwrap(),
            destination,
            protocol,
            port,
            interface,
            remembered,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_tree_is_the_flat_chain_for_every_packet(
        events in prop::collection::vec(event(), 0..60),
        variant in any::<u8>(),
        leaf in 1usize..4,
        balance in 0..BALANCES.len(),
        packets in prop::collection::vec(packet(), 120),
    ) {
        let world = world(events);
        let rules = |dispatch, balance| {
            let mut options = options(variant, dispatch, leaf);
            options.balance = balance;
            Rules::new(&written(&world, options).1.save(), &LOCAL)
        };
        let flat = rules(ChainLayout::Flat, ChainLayout::Flat);
        let (tree, auto) = (rules(ChainLayout::Tree, BALANCES[balance]), rules(ChainLayout::Auto, BALANCES[balance]));
        prop_assert_eq!((flat.chains_like("KUBE-SVC-DSP-"), flat.chains_like("KUBE-SVC-BAL-")), (0, 0));
        for packet in packets {
            let want = flat.fate(&packet);
            for (name, rules) in [("tree", &tree), ("auto", &auto)] {
                let got = rules.fate(&packet);
                // Balancing trees multiply probabilities that the kernel rounds to 2⁻³¹.
                prop_assert!(want.agrees_within(&got, 1e-6), "{:?}\nflat {:?}\n{} {:?}", packet, want, name, got);
            }
        }
    }
}

// ------------------------------------------------------------------ larger clusters

fn address(n: usize) -> IpAddr {
    let [_, a, b, c] = u32::try_from(n).unwrap().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 96 + a, b, c))
}

/// Adds a Service: every third without endpoints, every fourth with a node port, a load balancer's address and source
/// ranges.
fn put(world: &mut World, n: usize) {
    let name = format!("s{n:05}");
    let outside = n.is_multiple_of(4);
    let service = json!({
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"type": if outside { "LoadBalancer" } else { "ClusterIP" }, "clusterIP": address(n),
            "ports": [{"port": 80, "nodePort": if outside { 20_000 + n } else { 0 }}],
            "loadBalancerSourceRanges": if n.is_multiple_of(8) { json!(["203.0.113.0/24"]) } else { Value::Null }},
        "status": {"loadBalancer": {"ingress": if outside { json!([{"ip": format!("192.0.{}.{}", n >> 8, n & 255)}]) } else { json!([]) }}},
    });
    world.objects.insert((Kind::Service, name.clone()), service);
    let slice = json!({
        "metadata": {"name": format!("{name}-1"), "namespace": "ns", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": if n.is_multiple_of(3) { json!([]) } else { json!([{"addresses": [format!("10.128.{}.{}", n >> 8, n & 255)]}]) },
    });
    world.objects.insert((Kind::EndpointSlice, format!("{name}-1")), slice);
}

fn large(dispatch: ChainLayout, strategy: WriteStrategy) -> Options {
    let mut options = options(1, dispatch, 16);
    options.tree_limits = TreeLimits::default();
    options.write_strategy = strategy;
    options
}

fn packets_to(n: usize) -> Vec<Packet> {
    let to = |destination: IpAddr, port| Packet {
        source: "203.0.113.5".parse().unwrap(),
        destination,
        protocol: "tcp",
        port,
        interface: "eth0",
        remembered: false,
    };
    let port = u16::try_from(20_000 + n).unwrap();
    let balancer = IpAddr::from([192, 0, u8::try_from(n >> 8).unwrap(), u8::try_from(n & 255).unwrap()]);
    vec![to(address(n), 80), to(address(n), 81), to(balancer, 80), to(LOCAL[1].parse().unwrap(), port)]
}

/// Splits the text into blocks.
fn blocks(plan: &Plan) -> Vec<String> {
    let text = String::from_utf8(plan.payload()).unwrap();
    text.split_inclusive("COMMIT\n").map(str::to_owned).collect()
}

#[test]
fn no_moment_of_a_switch_loses_a_packet() {
    let mut world = World::default();
    (0..2000).for_each(|n| put(&mut world, n));
    let probes: Vec<Packet> = (0..2000).step_by(97).chain([0, 12, 1999]).flat_map(packets_to).collect();
    for strategy in [WriteStrategy::OneBlock, WriteStrategy::OrderedBlocks] {
        let (_, mut kernel) = written(&world, large(ChainLayout::Flat, strategy));
        let flat = Rules::new(&kernel.save(), &LOCAL);
        let want: Vec<_> = probes.iter().map(|p| flat.fate(p)).collect();
        for to in [ChainLayout::Auto, ChainLayout::Flat, ChainLayout::Tree, ChainLayout::Flat] {
            let mut engine = Engine::new(large(to, strategy));
            engine.set_local_addresses(&LOCAL).unwrap();
            for kind in Kind::ALL {
                engine.replace(kind, &[&world.list(kind)]).unwrap();
            }
            engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
            let plan = engine.plan(Family::V4).unwrap().unwrap();
            let blocks = blocks(&plan);
            assert_eq!(blocks.len() >= 3, strategy == WriteStrategy::OrderedBlocks, "{}", blocks.len());
            for block in &blocks {
                kernel.restore(block.as_bytes(), 1).unwrap();
                let now = Rules::new(&kernel.save(), &LOCAL);
                for (packet, want) in probes.iter().zip(&want) {
                    let got = now.fate(packet);
                    assert!(
                        want.agrees(&got),
                        "{packet:?}\n{want:?}\n{got:?}\nafter\n{}",
                        &block[..200.min(block.len())]
                    );
                }
            }
            engine.commit(&plan).unwrap();
            engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
            assert!(engine.plan(Family::V4).unwrap().is_none());
            assert_eq!(Rules::new(&kernel.save(), &LOCAL).chains_like("KUBE-SVC-DSP-") > 0, to != ChainLayout::Flat);
            // No chain of a Service was written again, only dispatch chains.
            let dispatch = |name: &String| name.contains("KUBE-SERVICES") || name.contains("KUBE-SVC-DSP-");
            let written = |name: &String| name.contains("KUBE-S") && !dispatch(name);
            assert!(!plan.chains_written().iter().chain(&plan.chains_deleted()).any(written));
        }
    }
}

#[test]
fn a_walk_through_a_tree_is_short() {
    let mut world = World::default();
    (0..4000).for_each(|n| put(&mut world, n));
    let rules = |dispatch| Rules::new(&written(&world, large(dispatch, WriteStrategy::OneBlock)).1.save(), &LOCAL);
    let (flat, tree) = (rules(ChainLayout::Flat), rules(ChainLayout::Auto));
    let probes = (0..4000).step_by(211).chain([7000, 9999]).flat_map(packets_to);
    for packet in probes {
        let (long, short) = (flat.fate(&packet), tree.fate(&packet));
        assert!(long.agrees(&short));
        // Each traversed chain has at most sixteen rules, four levels below a root; and there are five trees.
        assert!(short.walked < 200, "{} {packet:?}", short.walked);
    }
    assert!(flat.fate(&packets_to(3997)[0]).walked > 3000);
}

#[test]
fn one_service_more_or_less_writes_a_leaf() {
    let mut world = World::default();
    (0..4000).filter(|n| n % 7 != 0).for_each(|n| put(&mut world, n));
    let (mut engine, mut kernel) = written(&world, large(ChainLayout::Auto, WriteStrategy::OrderedBlocks));
    let total = kernel.save().lines().filter(|l| l.contains(":KUBE-SVC-DSP-")).count();
    for n in [3500, 0, 2219] {
        let mut one = World::default();
        put(&mut one, n);
        for deleted in [false, true] {
            for ((kind, _), object) in &one.objects {
                let type_ = if deleted { "DELETED" } else { "ADDED" };
                let frame = serde_json::to_vec(&json!({"type": type_, "object": object})).unwrap();
                assert_eq!(engine.ingest(*kind, &frame).changed, 1);
            }
            let plan = engine.plan(Family::V4).unwrap().unwrap();
            kernel.restore(&plan.payload(), usize::MAX).unwrap();
            engine.commit(&plan).unwrap();
            let parts = |list: &[String]| list.iter().filter(|c| c.contains("KUBE-SVC-DSP-")).count();
            let touched = parts(&plan.chains_written()) + parts(&plan.chains_deleted());
            assert!((1..30).contains(&touched), "{touched} parts of {total}");
            assert!(plan.text.len() < 12_000, "{} bytes", plan.text.len());
            assert!(!plan.chains_written().contains(&"nat KUBE-SERVICES".to_owned()));
        }
    }
}

#[test]
fn the_threshold_does_not_flutter() {
    let tree = |kernel: &Kernel| kernel.save().contains("KUBE-SVC-DSP-");
    let (mut engine, mut kernel) = written(&World::default(), large(ChainLayout::Auto, WriteStrategy::OneBlock));
    let service = |n: usize| json!({"metadata": {"name": format!("s{n:05}"), "namespace": "ns"}, "spec": {"clusterIP": address(n), "ports": [{"port": 80}]}});
    let mut sizes = Vec::new();
    // Without endpoints each has one rule, in filter KUBE-SERVICES.
    for n in (900..=1001).chain((740..=1001).rev()).chain(740..=1001) {
        let list: Vec<Value> = (0..n).map(service).collect();
        engine.replace(Kind::Service, &[&serde_json::to_vec(&list).unwrap()]).unwrap();
        let before = tree(&kernel);
        if let Some(plan) = engine.plan(Family::V4).unwrap() {
            kernel.restore(&plan.payload(), usize::MAX).unwrap();
            engine.commit(&plan).unwrap();
        }
        if tree(&kernel) != before {
            sizes.push(n);
        }
    }
    assert_eq!(sizes, [1001, 749, 1001]);
}
