//! Invariant: however objects come and go, the changes that were reported add up to the problems that stand.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use ferrule_engine::{Engine, Family, Kind, Options, Problem};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A Service that may be wrong, may want what another has, and may have no name.
fn service() -> impl Strategy<Value = Value> {
    let created = prop::option::of((1..3u8).prop_map(|day| format!("2025-01-0{day}T00:00:00Z")));
    (prop::option::weighted(0.9, 0..4u8), 1..3u8, prop::option::of(1..3u8), 30000..30002u32, 0..3u8, created).prop_map(
        |(name, cluster, external, node_port, fault, created)| {
            let mut spec = json!({
                "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000, "clusterIPs": [format!("10.96.0.{cluster}"), format!("fd00::{cluster}")],
                "externalIPs": external.map(|e| format!("10.96.0.{e}")).into_iter().collect::<Vec<_>>(),
                "ports": [{"port": 80, "nodePort": node_port}],
            });
            match fault {
                0 => spec["externalIPs"] = json!(["nonsense", "nonsense"]),
                1 => spec["ports"] = json!(7),
                _ => {}
            }
            let metadata = name.map_or_else(|| json!({}), |n| json!({"name": format!("s{n}"), "namespace": "n", "creationTimestamp": created}));
            json!({"metadata": metadata, "spec": spec})
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    List(Vec<Value>),
    Frame(&'static str, Value),
    Plan,
    Report,
}

fn step() -> impl Strategy<Value = Step> {
    let frame = (prop::sample::select(vec!["ADDED", "MODIFIED", "DELETED"]), service());
    prop_oneof![
        1 => prop::collection::vec(service(), 0..5).prop_map(Step::List),
        4 => frame.prop_map(|(kind, object)| Step::Frame(kind, object)),
        2 => Just(Step::Plan),
        2 => Just(Step::Report),
    ]
}

fn plan(engine: &mut Engine) {
    for family in Family::ALL {
        if let Some(plan) = engine.plan(family).unwrap() {
            engine.commit(&plan).unwrap();
        }
    }
}

fn report(engine: &mut Engine, standing: &mut BTreeSet<Problem>) {
    let changes = engine.take_problem_changes();
    for problem in changes.gone {
        assert!(standing.remove(&problem), "gone without having appeared: {problem:?}");
    }
    for problem in changes.appeared {
        assert!(standing.insert(problem.clone()), "appeared twice: {problem:?}");
    }
    assert_eq!(changes.standing, standing.len());
    assert!(engine.problems().iter().eq(standing.iter()));
}

proptest! {
    #[test]
    fn changes_add_up_to_what_stands(steps in prop::collection::vec(step(), 1..40)) {
        let mut engine = Engine::new(Options::new("node-1"));
        for kind in Kind::ALL {
            engine.replace(kind, &[b"[]"]).unwrap();
        }
        for family in Family::ALL {
            engine.observe(family, b"").unwrap();
        }
        let mut standing = BTreeSet::new();
        for step in steps {
            match step {
                Step::List(items) => {
                    engine.replace(Kind::Service, &[json!(items).to_string().as_bytes()]).unwrap();
                }
                Step::Frame(kind, object) => {
                    engine.ingest(Kind::Service, json!({"type": kind, "object": object}).to_string().as_bytes());
                }
                Step::Plan => plan(&mut engine),
                Step::Report => report(&mut engine, &mut standing),
            }
        }
        plan(&mut engine);
        report(&mut engine, &mut standing);
        prop_assert_eq!(engine.take_problem_changes().appeared.len(), 0, "nothing changed");
    }
}

#[test]
fn a_conflict_of_both_families_is_one_problem() {
    let mut engine = Engine::new(Options::new("node-1"));
    let service = |name: &str, ip: u8| {
        json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"type": "NodePort", "clusterIPs": [format!("10.96.0.{ip}"), format!("fd00::{ip}")],
                "ports": [{"port": 80, "nodePort": 30080}]},
        })
    };
    let list = json!([service("a", 1), service("b", 2)]).to_string();
    engine.replace(Kind::Service, &[list.as_bytes()]).unwrap();
    for kind in [Kind::EndpointSlice, Kind::Node] {
        engine.replace(kind, &[b"[]"]).unwrap();
    }
    for family in Family::ALL {
        engine.observe(family, b"").unwrap();
    }
    plan(&mut engine);
    let changes = engine.take_problem_changes();
    assert_eq!((changes.appeared.len(), changes.gone.len(), changes.standing), (1, 0, 1), "{changes:?}");
    assert_eq!(changes.appeared[0].field, "spec.ports[].nodePort");

    engine.ingest(Kind::Service, json!({"type": "DELETED", "object": service("a", 1)}).to_string().as_bytes());
    plan(&mut engine);
    let after = engine.take_problem_changes();
    assert_eq!((after.gone, after.standing), (changes.appeared, 0));
}
