//! Invariant: a balancing tree chooses like the flat chain: every endpoint of the set with the same probability, and no
//! other endpoint, also in every state between two transactions. Adding or removing one endpoint writes a few short
//! chains.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::kernel::Kernel;
use common::packet::{Fate, Packet, Rules};
use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{ChainLayout, Engine, Options, Plan, WriteStrategy};
use serde_json::{Value, json};

const PART: &str = "KUBE-SVC-BAL-";

/// Services by number, each with the numbers of its endpoints, of which every fiftieth is on this node.
type Cluster = BTreeMap<u8, BTreeSet<u32>>;

fn pod(service: u8, n: u32) -> String {
    let [_, _, high, low] = n.to_be_bytes();
    format!("10.{}.{high}.{low}", 128 + service)
}

fn cluster_ip(service: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, service])
}

fn objects(service: u8, endpoints: &BTreeSet<u32>, spec: &Value) -> [(Kind, Value); 2] {
    let name = format!("s{service}");
    let mut object = json!({
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"type": "NodePort", "clusterIP": cluster_ip(service), "ports": [{"port": 80, "nodePort": 30_000 + u16::from(service)}]},
    });
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let endpoint = |&n: &u32| json!({"addresses": [pod(service, n)], "nodeName": if n.is_multiple_of(50) { "node-1" } else { "node-2" }});
    let slice = json!({
        "metadata": {"name": format!("{name}-1"), "namespace": "ns", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    });
    [(Kind::Service, object), (Kind::EndpointSlice, slice)]
}

fn load(engine: &mut Engine, cluster: &Cluster, spec: &Value) {
    let all: Vec<(Kind, Value)> = cluster.iter().flat_map(|(&n, endpoints)| objects(n, endpoints, spec)).collect();
    for kind in Kind::ALL {
        let items: Vec<&Value> = all.iter().filter(|(k, _)| *k == kind).map(|(_, v)| v).collect();
        engine.replace(kind, &[&serde_json::to_vec(&items).unwrap()]).unwrap();
    }
}

fn engine(balance: ChainLayout, strategy: WriteStrategy) -> Engine {
    let mut options = Options::new("node-1");
    options.balance = balance;
    options.write_strategy = strategy;
    options.set_local_detector("ClusterCIDR", &["10.128.0.0/9"], "").unwrap();
    let mut engine = Engine::new(options);
    engine.set_local_addresses(&["172.31.250.2"]).unwrap();
    engine
}

/// Returns an engine that knows the cluster and has observed the kernel, with its plan.
fn started(kernel: &Kernel, mut engine: Engine, cluster: &Cluster, spec: &Value) -> (Engine, Option<Plan>) {
    load(&mut engine, cluster, spec);
    engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
    let plan = engine.plan(Family::V4).unwrap();
    (engine, plan)
}

fn written(balance: ChainLayout, cluster: &Cluster, spec: &Value) -> (Engine, Kernel) {
    let mut kernel = Kernel::new();
    let (mut engine, plan) = started(&kernel, self::engine(balance, WriteStrategy::OneBlock), cluster, spec);
    apply(&mut engine, &mut kernel, &plan.unwrap());
    (engine, kernel)
}

fn apply(engine: &mut Engine, kernel: &mut Kernel, plan: &Plan) {
    kernel.restore(&plan.payload(), usize::MAX).unwrap();
    engine.commit(plan).unwrap();
}

fn rules(kernel: &Kernel) -> Rules {
    Rules::new(&kernel.save(), &["172.31.250.2"])
}

fn packet(destination: IpAddr, port: u16, remembered: bool) -> Packet {
    Packet { source: IpAddr::from([203, 0, 113, 5]), destination, protocol: "tcp", port, interface: "eth0", remembered }
}

/// Returns the probability of each endpoint.
fn chances(fate: &Fate) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (outcome, chance) in &fate.outcomes {
        assert_eq!(outcome.verdict, "ACCEPT");
        *all.entry(outcome.destination.clone().expect("every packet reaches an endpoint")).or_default() += chance;
    }
    all
}

fn targets(service: u8, endpoints: impl IntoIterator<Item = u32>) -> BTreeSet<String> {
    endpoints.into_iter().map(|n| format!("{}:8080", pod(service, n))).collect()
}

fn one_service(endpoints: impl IntoIterator<Item = u32>) -> Cluster {
    Cluster::from([(1, endpoints.into_iter().collect())])
}

/// Returns the chains of nat with a name prefix, with their rules.
fn chains(kernel: &Kernel, prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut kernel = kernel.clone();
    let nat = kernel.table_mut("nat").iter();
    nat.filter(|(name, _)| name.starts_with(prefix)).map(|(n, r)| (n.clone(), r.clone())).collect()
}

#[test]
fn every_endpoint_has_the_same_chance() {
    for (size, parts, longest, mean, most) in [
        (101, 10..17, 16, 35.0, 50),
        (300, 16..17, 35, 40.0, 70),
        (1000, 16..17, 90, 65.0, 120),
        (5000, 272..273, 45, 55.0, 100),
    ] {
        let cluster = one_service(1..=size);
        let (_, kernel) = written(ChainLayout::Auto, &cluster, &json!({}));
        let (_, flat) = written(ChainLayout::Flat, &cluster, &json!({}));
        let (tree, chain) = (rules(&kernel), rules(&flat));
        for (destination, port) in [(cluster_ip(1), 80), (IpAddr::from([172, 31, 250, 2]), 30_001)] {
            let packet = packet(destination, port, false);
            let (short, long) = (tree.fate(&packet), chain.fate(&packet));
            assert!(long.agrees_within(&short, 1e-6), "the same masquerade, the same way");
            let chances = chances(&short);
            assert_eq!(chances.keys().cloned().collect::<BTreeSet<_>>(), targets(1, 1..=size));
            for chance in chances.values() {
                assert!((chance * f64::from(size) - 1.0).abs() < 1e-5, "{chance} of 1/{size}");
            }
            assert!(short.mean < mean && short.walked < most, "{} rules, {} at most", short.mean, short.walked);
            assert!(long.mean > f64::from(size) / 2.0 && long.walked > size as usize);
        }
        let parts_here = chains(&kernel, PART);
        assert!(parts.contains(&parts_here.len()), "{}", parts_here.len());
        assert!(parts_here.values().all(|rules| (2..=longest).contains(&rules.len())));
    }
}

#[test]
fn the_threshold_counts_each_set() {
    let spec = json!({"externalTrafficPolicy": "Local"});
    let parts = |balance, size| {
        let (_, kernel) = written(balance, &one_service(1..=size), &spec);
        let roots = |kind| chains(&kernel, kind).values().flatten().filter(|rule| rule.contains(PART)).count();
        (chains(&kernel, PART).len(), roots("KUBE-SVL-"))
    };
    assert_eq!(parts(ChainLayout::Auto, 100).0, 0);
    assert_eq!(parts(ChainLayout::Tree, 16).0, 0);
    assert_eq!(parts(ChainLayout::Flat, 5000).0, 0);
    assert!(parts(ChainLayout::Tree, 17).0 > 0);
    // The local set is every fiftieth: twenty here are few, a hundred and two are not.
    assert!(matches!(parts(ChainLayout::Auto, 1000), (16, 0)));
    assert!(matches!(parts(ChainLayout::Auto, 5100), (250.., 10..)));
}

#[test]
fn a_remembered_client_comes_first() {
    let spec = json!({"sessionAffinity": "ClientIP"});
    let (_, kernel) = written(ChainLayout::Auto, &one_service(1..=150), &spec);
    let (_, flat) = written(ChainLayout::Flat, &one_service(1..=150), &spec);
    for remembered in [false, true] {
        let packet = packet(cluster_ip(1), 80, remembered);
        let (short, long) = (rules(&kernel).fate(&packet), rules(&flat).fate(&packet));
        assert!(short.agrees_within(&long, 1e-6));
        assert_eq!(short.outcomes.len(), if remembered { 1 } else { 150 });
        // The list of the chosen endpoint remembers the client.
        assert!(short.outcomes.keys().all(|o| o.noted.iter().any(|list| o.trace.contains(list))));
    }
}

#[test]
fn one_endpoint_changes_its_part_and_those_above() {
    let before = one_service(1..=1000);
    let after = one_service((1..=1000).filter(|&n| n != 500));
    let cost = |balance| {
        let (mut engine, mut kernel) = written(balance, &before, &json!({}));
        let mut costs = Vec::new();
        for (change, cluster) in [("out", &after), ("in", &before)] {
            load(&mut engine, cluster, &json!({}));
            let plan = engine.plan(Family::V4).unwrap().unwrap();
            apply(&mut engine, &mut kernel, &plan);
            costs.push((change, plan));
        }
        costs
    };
    let (tree, flat) = (cost(ChainLayout::Auto), cost(ChainLayout::Flat));
    for ((change, small), (_, large)) in tree.iter().zip(&flat) {
        let touched = [small.chains_written(), small.chains_deleted()].concat();
        let parts = touched.iter().filter(|name| name.contains(PART)).count();
        // The chain of the Service, the one of the endpoint, and its tree chain.
        assert!(parts == 1 && touched.len() == 3, "{change}: {touched:?}");
        assert!(small.rules_written <= 2 + 1 + 16 + 90, "{change}: {}", small.rules_written);
        assert!(small.text.len() * 12 < large.text.len(), "{change}: {} of {}", small.text.len(), large.text.len());
    }
}

/// Returns the text by transaction. Each is checked as the nft tool does: no jump to a chain that no earlier line
/// declares.
fn blocks(kernel: &Kernel, plan: &Plan) -> Vec<String> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut kernel = kernel.clone();
    for table in ["filter", "nat", "mangle"] {
        known.extend(kernel.table_mut(table).keys().map(|name| format!("{table} {name}")));
    }
    let payload = plan.payload();
    let (text, mut table) = (std::str::from_utf8(&payload).unwrap(), "");
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(declared) = line.strip_prefix(':') {
            known.insert(format!("{table} {}", declared.split(' ').next().unwrap()));
        } else if let Some((_, target)) = line.split_once(" -j KUBE-") {
            assert!(known.contains(&format!("{table} KUBE-{target}")), "{line}");
        }
    }
    text.split_inclusive("COMMIT\n").map(str::to_owned).collect()
}

/// Four Services with three hundred endpoints each, or the same after many changes: endpoints were removed and added,
/// one Service became small, one has no endpoints left.
fn crowd(changed: bool) -> Cluster {
    let sets: [BTreeSet<u32>; 4] = if changed {
        [(100..450).collect(), (1..=300).filter(|n| n % 7 != 0).collect(), (1..=3).collect(), BTreeSet::new()]
    } else {
        [1, 2, 3, 4].map(|_| (1..=300).collect())
    };
    (1..).zip(sets).collect()
}

#[test]
fn no_moment_of_a_change_loses_a_packet() {
    for strategy in [WriteStrategy::OneBlock, WriteStrategy::OrderedBlocks] {
        let mut kernel = Kernel::new();
        let mut before = Cluster::new();
        for (balance, changed) in [
            (ChainLayout::Flat, false),
            (ChainLayout::Auto, false),
            (ChainLayout::Auto, true),
            (ChainLayout::Tree, false),
            (ChainLayout::Flat, true),
            (ChainLayout::Flat, false),
            (ChainLayout::Tree, true),
            (ChainLayout::Flat, true),
        ] {
            let now = crowd(changed);
            let (mut engine, plan) = started(&kernel, engine(balance, strategy), &now, &json!({}));
            let plan = plan.unwrap();
            for block in blocks(&kernel, &plan) {
                kernel.restore(block.as_bytes(), 1).unwrap();
                let rules = rules(&kernel);
                for (&service, new) in &now {
                    let Some(old) = before.get(&service) else { continue };
                    if old.is_empty() || new.is_empty() {
                        continue;
                    }
                    let chances = chances(&rules.fate(&packet(cluster_ip(service), 80, false)));
                    let sets = [targets(service, old.clone()), targets(service, new.clone())];
                    let who: BTreeSet<String> = chances.keys().cloned().collect();
                    // Each Service changes in one transaction: the old set or the new one, never a mixture.
                    assert!(sets.contains(&who), "{} answer after\n{}", who.len(), &block[..200.min(block.len())]);
                    for chance in chances.values() {
                        assert!((chance * who.len() as f64 - 1.0).abs() < 1e-5, "{chance} of 1/{}", who.len());
                    }
                }
            }
            engine.commit(&plan).unwrap();
            engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
            assert!(engine.plan(Family::V4).unwrap().is_none());
            let (_, fresh) = written(balance, &now, &json!({}));
            assert_eq!(kernel.chains(), fresh.chains(), "no chain is left over");
            assert_eq!(chains(&kernel, PART), chains(&fresh, PART));
            assert_eq!(chains(&kernel, PART).is_empty(), balance == ChainLayout::Flat);
            before = now;
        }
    }
}

#[test]
fn a_large_write_goes_in_blocks_that_end_between_services() {
    let cluster: Cluster = (1..=12).map(|n| (n, (1..=900).collect())).collect();
    let mut sizes = Vec::new();
    for balance in [ChainLayout::Flat, ChainLayout::Tree] {
        let kernel = Kernel::new();
        let (_, plan) = started(&kernel, engine(balance, WriteStrategy::OrderedBlocks), &cluster, &json!({}));
        let blocks = blocks(&kernel, &plan.unwrap());
        let balancing: Vec<&String> = blocks.iter().filter(|b| b.contains("\n-A KUBE-SVC-")).collect();
        for block in &balancing {
            let lines = block.lines().filter(|line| line.starts_with("-A ")).count();
            assert!(lines < 4000 + 1200, "{lines} rules in one block");
            // A tree chain that is declared here is referenced here.
            for part in block.lines().filter_map(|line| line.strip_prefix(':')).filter(|line| line.starts_with(PART)) {
                assert!(block.contains(&format!(" -j {}\n", part.split(' ').next().unwrap())));
            }
        }
        sizes.push(balancing.len());
    }
    assert!(sizes.iter().all(|&n| (3..=6).contains(&n)), "{sizes:?}");
}

/// Returns the number of chains on the longest path from a base chain of nat, according to a plan for an empty kernel.
fn deepest(kernel: &Kernel) -> usize {
    fn below(chain: &str, jumps: &BTreeMap<String, Vec<String>>, known: &mut BTreeMap<String, usize>) -> usize {
        if let Some(&depth) = known.get(chain) {
            return depth;
        }
        let targets = jumps.get(chain).map_or(&[][..], |all| all);
        let depth = targets.iter().map(|to| 1 + below(to, jumps, known)).max().unwrap_or(0);
        known.insert(chain.to_owned(), depth);
        depth
    }
    let jump = |rule: &String| rule.split_once(" -j KUBE-").map(|(_, to)| format!("KUBE-{to}"));
    let jumps = chains(kernel, "").into_iter().map(|(name, rules)| (name, rules.iter().filter_map(jump).collect()));
    let jumps: BTreeMap<String, Vec<String>> = jumps.collect();
    ["PREROUTING", "OUTPUT", "POSTROUTING"].iter().map(|hook| below(hook, &jumps, &mut BTreeMap::new())).max().unwrap()
}

/// Addresses that differ in every nibble from one with ports that do so too, and many endpoints behind source ranges:
/// the worst case that the creator of a Service can construct.
#[test]
fn no_cluster_nests_chains_deeper_than_the_kernel_allows() {
    let base = u32::from_be_bytes([10, 96, 0, 1]);
    let mut addresses: Vec<u32> = (0..8).map(|nibble| base ^ (1 << (4 * nibble))).collect();
    addresses.push(base);
    let mut services = Vec::new();
    for (n, &address) in (0u16..).zip(&addresses) {
        let mut ports: Vec<u16> = vec![80];
        if address == base {
            ports = (0x1110..=0x111f).chain([0x1121, 0x1211, 0x2111]).collect();
        }
        let ports = ports.iter().map(|p| json!({"name": format!("p{p}"), "port": p, "nodePort": p ^ 1024 ^ (n << 13)}));
        let udp = json!({"name": "u", "protocol": "UDP", "port": 0x1111});
        services.push(json!({
            "metadata": {"name": format!("s{n}"), "namespace": "ns"},
            "spec": {"type": "LoadBalancer", "clusterIP": format!("10.97.0.{n}"), "ports": ports.chain([udp]).collect::<Vec<_>>(),
                "loadBalancerSourceRanges": ["203.0.113.0/24"]},
            "status": {"loadBalancer": {"ingress": [{"ip": IpAddr::from(address.to_be_bytes())}]}},
        }));
    }
    let slices: Vec<Value> = services
        .iter()
        .map(|service| {
            let name = &service["metadata"]["name"];
            let ports = service["spec"]["ports"].as_array().unwrap().iter();
            let ports = ports.map(|p| json!({"name": p["name"], "protocol": p["protocol"], "port": 8080}));
            json!({"metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
                "ports": ports.collect::<Vec<_>>(), "endpoints": (1..=300).map(|n| json!({"addresses": [pod(1, n)]})).collect::<Vec<_>>()})
        })
        .collect();
    let mut options = Options::new("node-1");
    options.dispatch = ferrule_engine::ChainLayout::Tree;
    options.balance = ChainLayout::Tree;
    let mut engine = Engine::new(options);
    for (kind, items) in [(Kind::Service, &services), (Kind::EndpointSlice, &slices), (Kind::Node, &Vec::new())] {
        engine.replace(kind, &[&serde_json::to_vec(items).unwrap()]).unwrap();
    }
    let mut kernel = Kernel::new();
    engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
    let plan = engine.plan(Family::V4).unwrap().unwrap();
    apply(&mut engine, &mut kernel, &plan);
    // nft's limit, which this cluster would exceed without the maximum depth.
    assert_eq!(deepest(&kernel), 15);
}
