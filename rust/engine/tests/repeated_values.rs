//! Invariant: an object that repeats values in its lists of addresses and ranges has the rules of the one that does not,
//! from scratch, and incrementally whatever it was before, in flat chains and in trees (between the thresholds of `auto`, the layout depends on the past).
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::cluster::{MODES, SMALL};
use common::kernel::Kernel;
use ferrule_engine::{Engine, Family, Kind, Options};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Values by position in the lists of an object; positions may repeat.
type Lists = [Vec<usize>; 4];

fn objects([external, balancer, ranges, endpoints]: &Lists) -> [(Kind, Value); 2] {
    let texts = |list: &[usize], format: &dyn Fn(usize) -> String| list.iter().map(|&i| format(i)).collect::<Vec<_>>();
    // Some addresses are external and of the load balancer.
    let external = texts(external, &|i| format!("192.0.2.{i}"));
    let ingress: Vec<Value> = balancer.iter().map(|i| json!({"ip": format!("192.0.2.{}", i + 2)})).collect();
    let endpoints: Vec<Value> =
        endpoints.iter().map(|i| json!({"addresses": [format!("10.1.0.{i}")], "nodeName": "node-1"})).collect();
    let service = json!({"metadata": {"name": "a"}, "spec": {
        "type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080}], "externalIPs": external,
        "loadBalancerSourceRanges": texts(ranges, &|i| format!("198.51.{i}.0/24"))}, "status": {"loadBalancer": {"ingress": ingress}}});
    let slice = json!({"metadata": {"name": "a-1", "labels": {"kubernetes.io/service-name": "a"}}, "addressType": "IPv4",
        "ports": [{"port": 8080}], "endpoints": endpoints});
    [(Kind::Service, service), (Kind::EndpointSlice, slice)]
}

/// Writes what differs; returns the number of chains that were written.
fn sync(engine: &mut Engine, kernel: &mut Kernel) -> usize {
    let Some(plan) = engine.plan(Family::V4).unwrap() else { return 0 };
    kernel.restore(&plan.payload(), usize::MAX).unwrap();
    engine.commit(&plan).unwrap();
    plan.chains_written().len()
}

fn fresh(mode: usize, lists: &Lists) -> (Engine, Kernel) {
    let mut options = Options::new("node-1");
    options.dispatch = MODES[mode];
    options.tree_limits = SMALL;
    let (mut engine, mut kernel) = (Engine::new(options), Kernel::new());
    for (kind, object) in objects(lists) {
        engine.replace(kind, &[&serde_json::to_vec(&[object]).unwrap()]).unwrap();
    }
    engine.replace(Kind::Node, &[b"[]"]).unwrap();
    engine.observe(Family::V4, b"").unwrap();
    sync(&mut engine, &mut kernel);
    (engine, kernel)
}

fn change(engine: &mut Engine, lists: &Lists) {
    for (kind, object) in objects(lists) {
        let frame = json!({"type": "MODIFIED", "object": object}).to_string();
        assert_eq!(engine.ingest(kind, frame.as_bytes()).rejected, 0);
    }
}

fn sorted(kernel: &Kernel) -> Vec<String> {
    let mut lines: Vec<String> = kernel.save().lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn distinct(lists: &Lists) -> Lists {
    lists.clone().map(|list| {
        let mut seen = Vec::new();
        list.into_iter()
            .filter(|i| {
                !seen.contains(i) && {
                    seen.push(*i);
                    true
                }
            })
            .collect()
    })
}

/// A list with repetitions: a few, or one value more often than a byte can count.
fn list() -> impl Strategy<Value = Vec<usize>> {
    let few = prop::collection::vec(0..5usize, 0..8);
    prop_oneof![3 => few.clone(), 1 => few.prop_map(|list| [vec![1; 300], list].concat())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn repeated_values_change_nothing(history in prop::collection::vec([list(), list(), list(), list()], 2..4), mode in 0..2usize) {
        let (mut engine, mut kernel) = fresh(mode, &history[0]);
        for lists in &history {
            change(&mut engine, lists);
            sync(&mut engine, &mut kernel);
            let (_, once) = fresh(mode, &distinct(lists));
            prop_assert_eq!(sorted(&kernel), sorted(&once));
            // The object without the repetitions is the same to the engine.
            change(&mut engine, &distinct(lists));
            prop_assert_eq!(sync(&mut engine, &mut kernel), 0);
        }
    }
}
