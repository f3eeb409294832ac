//! Invariant: what several Services claim belongs to the one that was created first, whatever it is, in whichever order
//! and by whichever way they arrive.
#![allow(clippy::unwrap_used, missing_docs)]

use ferrule_engine::{Engine, Family, Kind, Options};
use serde_json::{Value, json};

const OLD: &str = "2020-05-06T07:08:09Z";
const NEW: &str = "2025-01-01T00:00:00Z";

/// The same claim in two Services: `spec` is in both, on top of what makes them valid.
fn service(name: &str, created: Option<&str>, spec: &Value, status: &Value) -> Value {
    let last = name.bytes().map(u32::from).sum::<u32>() % 250;
    let mut object = json!({
        "metadata": {"name": name, "namespace": "n", "creationTimestamp": created},
        "spec": {"clusterIP": format!("10.96.9.{last}"), "ports": [{"port": 80}]},
        "status": status,
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

fn engine() -> Engine {
    let mut engine = Engine::new(Options::new("node-1"));
    for kind in Kind::ALL {
        engine.replace(kind, &[b"[]"]).unwrap();
    }
    engine.observe(Family::V4, b"").unwrap();
    engine
}

fn plan(engine: &mut Engine) -> String {
    let Some(plan) = engine.plan(Family::V4).unwrap() else { return String::new() };
    let text = String::from_utf8(plan.payload()).unwrap();
    engine.commit(&plan).unwrap();
    text
}

fn frame(engine: &mut Engine, type_: &str, object: &Value) {
    let report = engine.ingest(Kind::Service, &serde_json::to_vec(&json!({"type": type_, "object": object})).unwrap());
    assert_eq!((report.rejected, report.malformed), (0, None));
}

/// Conflicts as one line each.
fn conflicts(engine: &Engine) -> Vec<String> {
    let of = |p: ferrule_engine::Problem| format!("{}: {}: {} {}", p.object, p.field, p.value, p.reason);
    engine.problems().into_iter().map(of).collect()
}

/// The conflicts after the objects arrived by every way: a list, watch events with and without plans in between, and an
/// update that changes nothing but the claim.
fn arrivals(objects: &[Value]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut listed = engine();
    listed.replace(Kind::Service, &[&serde_json::to_vec(objects).unwrap()]).unwrap();
    plan(&mut listed);
    found.push(conflicts(&listed));
    for plans in [false, true] {
        let mut watched = engine();
        for object in objects {
            frame(&mut watched, "ADDED", object);
            if plans {
                plan(&mut watched);
            }
        }
        plan(&mut watched);
        found.push(conflicts(&watched));
    }
    found
}

fn check(objects: &[Value], expected: &[&str]) {
    let mut reversed = objects.to_vec();
    reversed.reverse();
    for order in [objects, &reversed] {
        for found in arrivals(order) {
            assert_eq!(found, expected);
        }
    }
}

/// Each kind of claim: name, specification, status, and the field and value of the message.
fn kinds() -> Vec<(Value, Value, &'static str, &'static str)> {
    let none = json!({});
    let health = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000});
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
    vec![
        (json!({"clusterIP": "10.96.0.7"}), none.clone(), "spec.clusterIPs", "10.96.0.7:80 tcp"),
        (json!({"externalIPs": ["192.0.2.7"]}), none.clone(), "spec.externalIPs", "192.0.2.7:80 tcp"),
        (json!({"type": "LoadBalancer"}), ingress, "status.loadBalancer.ingress", "192.0.2.7:80 tcp"),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}),
            none.clone(),
            "spec.ports[].nodePort",
            "30000 tcp",
        ),
        (health, none, "spec.healthCheckNodePort", "32000"),
    ]
}

#[test]
fn the_service_created_first_keeps_every_kind_of_claim() {
    for (spec, status, field, value) in kinds() {
        let pair = [service("a", Some(NEW), &spec, &status), service("z", Some(OLD), &spec, &status)];
        let lacks = if field == "spec.healthCheckNodePort" { "listener on" } else { "rule for" };
        let reason = format!("already belongs to n/z (created {OLD}): n/a has no {lacks} it");
        check(&pair, &[&format!("Service n/a: {field}: {value} {reason}")]);
    }
}

#[test]
fn without_a_time_or_with_equal_times_the_first_name_keeps_it() {
    for (spec, status, field, value) in kinds() {
        for (times, since) in [
            ((None, None), "creation time unknown".to_owned()),
            ((Some(OLD), Some(OLD)), format!("created {OLD}")),
            ((Some(NEW), None), format!("created {NEW}")),
        ] {
            let pair = [service("a", times.0, &spec, &status), service("b", times.1, &spec, &status)];
            let lacks = if field == "spec.healthCheckNodePort" { "listener on" } else { "rule for" };
            let reason = format!("already belongs to n/a ({since}): n/b has no {lacks} it");
            check(&pair, &[&format!("Service n/b: {field}: {value} {reason}")]);
        }
    }
}

#[test]
fn a_time_that_the_api_would_not_write_counts_as_none_and_costs_nothing() {
    let spec = json!({"externalIPs": ["192.0.2.7"]});
    for odd in [json!(5), json!(""), json!("1999"), json!({"a": 1}), json!("1999-01-01T00:00:00+02:00")] {
        let mut a = service("a", None, &spec, &json!({}));
        a["metadata"]["creationTimestamp"] = odd;
        let z = service("z", Some(NEW), &spec, &json!({}));
        let reason = format!("already belongs to n/z (created {NEW}): n/a has no rule for it");
        check(&[a, z], &[&format!("Service n/a: spec.externalIPs: 192.0.2.7:80 tcp {reason}")]);
    }
}

#[test]
fn age_does_not_beat_a_better_kind_of_claim() {
    let external = service("old", Some(OLD), &json!({"externalIPs": ["10.96.0.7"]}), &json!({}));
    let cluster = service("new", Some(NEW), &json!({"clusterIP": "10.96.0.7"}), &json!({}));
    let reason = format!("already belongs to n/new (created {NEW}): n/old has no rule for it");
    check(&[external, cluster], &[&format!("Service n/old: spec.externalIPs: 10.96.0.7:80 tcp {reason}")]);
}

#[test]
fn a_service_that_comes_later_leaves_the_owners_rules_alone() {
    let mut engine = engine();
    let spec = json!({"externalIPs": ["192.0.2.7"]});
    frame(&mut engine, "ADDED", &service("z", Some(OLD), &spec, &json!({})));
    let before = plan(&mut engine);
    assert!(before.contains("-d 192.0.2.7/32") && before.contains("n/z has no endpoints"), "{before}");
    frame(&mut engine, "ADDED", &service("a", Some(NEW), &spec, &json!({})));
    let text = plan(&mut engine);
    assert!(text.contains("n/a has no endpoints"), "its own address is written: {text}");
    assert!(!text.contains("192.0.2.7"), "{text}");
}

#[test]
fn a_service_that_is_deleted_and_created_again_is_a_new_one() {
    let mut engine = engine();
    let (spec, none) = (json!({"externalIPs": ["192.0.2.7"]}), json!({}));
    let loser = |engine: &mut Engine| {
        plan(engine);
        engine.problems().into_iter().map(|p| p.object).collect::<Vec<_>>()
    };
    frame(&mut engine, "ADDED", &service("a", Some(OLD), &spec, &none));
    frame(&mut engine, "ADDED", &service("b", Some(NEW), &spec, &none));
    assert_eq!(loser(&mut engine), ["Service n/b"]);
    let again = service("a", Some("2026-01-01T00:00:00Z"), &spec, &none);
    frame(&mut engine, "DELETED", &service("a", Some(OLD), &spec, &none));
    frame(&mut engine, "ADDED", &again);
    assert_eq!(loser(&mut engine), ["Service n/a"]);
    // The same seen as one update, when the watch missed the deletion.
    frame(&mut engine, "MODIFIED", &service("b", Some("2027-01-01T00:00:00Z"), &spec, &none));
    assert_eq!(loser(&mut engine), ["Service n/b"]);
    frame(&mut engine, "DELETED", &again);
    assert_eq!(loser(&mut engine), [""; 0]);
}

#[test]
fn a_health_check_port_is_answered_for_its_owner_alone() {
    let mut engine = engine();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
        "ports": [{"name": "x", "port": 80}, {"name": "y", "port": 81}]});
    let names = |engine: &Engine| engine.health_checks().into_iter().map(|check| check.name).collect::<Vec<_>>();
    frame(&mut engine, "ADDED", &service("a", Some(NEW), &spec, &json!({})));
    assert_eq!(names(&engine), ["a"], "before the first plan as well");
    frame(&mut engine, "ADDED", &service("z", Some(OLD), &spec, &json!({})));
    plan(&mut engine);
    assert_eq!(names(&engine), ["z"]);
    let mut other = spec.clone();
    other["healthCheckNodePort"] = json!(32001);
    frame(&mut engine, "MODIFIED", &service("z", Some(OLD), &other, &json!({})));
    plan(&mut engine);
    assert_eq!(names(&engine), ["a", "z"]);
    assert_eq!(conflicts(&engine), [""; 0]);
}
