//! Invariant: for any content of a text field, the restore text keeps its lines and its chains, the kernel accepts it,
//! and every other object's rules are as if the hostile one were harmless.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::cluster::{MODES, SMALL};
use common::kernel::Kernel;
use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{ChainLayout, Engine, Options, TreeLimits};
use proptest::prelude::*;
use serde_json::{Value, json};

fn payload(services: &[Value], slices: &[Value]) -> (String, Engine) {
    payload_in(ChainLayout::Flat, services, slices)
}

fn payload_in(dispatch: ChainLayout, services: &[Value], slices: &[Value]) -> (String, Engine) {
    let mut options = Options::new("node-1");
    options.dispatch = dispatch;
    options.tree_limits = TreeLimits { grow: 2, ..SMALL };
    let mut engine = Engine::new(options);
    for (kind, items) in [(Kind::Service, services), (Kind::EndpointSlice, slices), (Kind::Node, &[])] {
        engine.replace(kind, &[&serde_json::to_vec(items).unwrap()]).unwrap();
    }
    engine.observe(Family::V4, b"").unwrap();
    let plan = engine.plan(Family::V4).unwrap().unwrap();
    let mut kernel = Kernel::new();
    kernel.restore(&plan.payload(), 3).unwrap();
    engine.commit(&plan).unwrap();
    engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
    assert!(engine.plan(Family::V4).unwrap().is_none(), "what was written is recognised");
    (String::from_utf8(plan.payload()).unwrap(), engine)
}

fn victim() -> (Value, Value) {
    let service = json!({"metadata": {"name": "victim", "namespace": "v"}, "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80}]}});
    let slice = json!({"metadata": {"name": "victim-1", "namespace": "v", "labels": {"kubernetes.io/service-name": "victim"}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.1.0.9"]}]});
    (service, slice)
}

/// Returns a Service with the same hostile text in all name fields.
fn attacker(name: &str, port: &str, protocol: &str) -> (Value, Value) {
    let service = json!({
        "metadata": {"name": name, "namespace": name, "labels": {"x": name}},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"name": port, "protocol": protocol, "port": 80, "nodePort": 30000}],
            "externalIPs": ["192.0.2.1"], "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["203.0.113.0/24"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}},
    });
    let slice = json!({"metadata": {"name": "s", "namespace": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": port, "protocol": protocol, "port": 8080}],
        "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": name}]});
    (service, slice)
}

fn chains(payload: &str) -> usize {
    payload.lines().filter(|l| l.starts_with(':')).count()
}

fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just("a\" -j ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n*nat\n:EVIL - [0:0]\n#".to_owned()),
        Just("x".repeat(300)),
        Just("\\\"'`$(id);|&\u{0}\u{7f}\u{2028}".to_owned()),
    ]
    .prop_filter("an object without a name is another test", |s| !s.is_empty())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_cannot_change_the_shape_of_the_text(name in hostile_text(), port in hostile_text(), mode in 0..MODES.len()) {
        let payload = |services: &[Value], slices: &[Value]| payload_in(MODES[mode], services, slices);
        let (victim_service, victim_slice) = victim();
        let (tame_service, tame_slice) = attacker("tame", "http", "TCP");
        let (service, slice) = attacker(&name, &port, "TCP");
        let (tame, _) = payload(&[victim_service.clone(), tame_service], &[victim_slice.clone(), tame_slice]);
        let (hostile, _) = payload(&[victim_service, service], &[victim_slice, slice]);
        prop_assert_eq!(hostile.lines().count(), tame.lines().count());
        prop_assert_eq!(chains(&hostile), chains(&tame));
        prop_assert!(hostile.is_ascii());
        let of_victim = |text: &str| text.lines().filter(|l| l.contains("v/victim")).map(str::to_owned).collect::<Vec<_>>();
        prop_assert_eq!(of_victim(&hostile), of_victim(&tame));
    }

    #[test]
    fn addresses_are_numbers_or_nothing(
        ip in hostile_text(), range in hostile_text(), protocol in hostile_text(), mode in 0..MODES.len(),
    ) {
        let payload = |services: &[Value], slices: &[Value]| payload_in(MODES[mode], services, slices);
        let (victim_service, victim_slice) = victim();
        let (alone, _) = payload(std::slice::from_ref(&victim_service), std::slice::from_ref(&victim_slice));
        let service = json!({"metadata": {"name": "h", "namespace": "h"}, "spec": {"type": "LoadBalancer", "clusterIP": ip, "externalIPs": [ip],
            "loadBalancerSourceRanges": [range], "ports": [{"port": 80, "protocol": protocol}]}, "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
        let slice = json!({"metadata": {"name": "h-1", "namespace": "h", "labels": {"kubernetes.io/service-name": "h"}},
            "addressType": "IPv4", "ports": [{"port": 1, "protocol": protocol}], "endpoints": [{"addresses": [ip]}]});
        let (with, _) = payload(&[victim_service, service], &[victim_slice, slice]);
        prop_assert_eq!(with, alone);
    }
}

fn problems(services: &[Value], slices: &[Value]) -> Vec<String> {
    let (_, engine) = payload(services, slices);
    engine
        .problems()
        .into_iter()
        .map(|p| format!("{} | {} | {} | {}", p.object, p.field, p.value, p.kind.name()))
        .collect()
}

#[test]
fn two_services_with_one_address_have_one_owner() {
    let service = |name: &str| json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}});
    for order in [["a", "b"], ["b", "a"]] {
        let found = problems(&order.map(service), &[]);
        assert_eq!(found, ["Service n/b | spec.clusterIPs | 10.0.0.1:80 tcp | conflict"]);
        let (text, _) = payload(&order.map(service), &[]);
        assert_eq!(text.matches("-d 10.0.0.1/32").count(), 1);
        assert!(text.contains("n/a has no endpoints"));
    }
}

#[test]
fn a_service_without_ports_has_no_rules_and_says_so() {
    let (victim_service, victim_slice) = victim();
    let (alone, _) = payload(std::slice::from_ref(&victim_service), std::slice::from_ref(&victim_slice));
    for ports in [json!([]), Value::Null] {
        let bare =
            json!({"metadata": {"name": "bare", "namespace": "n"}, "spec": {"clusterIP": "10.0.0.1", "ports": ports}});
        let found = problems(&[bare.clone(), victim_service.clone()], std::slice::from_ref(&victim_slice));
        assert_eq!(found, ["Service n/bare | spec.ports |  | ignored"]);
        assert_eq!(payload(&[bare, victim_service.clone()], std::slice::from_ref(&victim_slice)).0, alone);
    }
}

#[test]
fn an_external_ip_never_takes_anothers_cluster_ip() {
    let (victim_service, victim_slice) = victim();
    let thief = json!({"metadata": {"name": "a", "namespace": "a"}, "spec": {"clusterIP": "10.0.0.1", "externalIPs": ["10.0.0.9"], "ports": [{"port": 80}]}});
    let (text, engine) = payload(&[thief, victim_service], &[victim_slice]);
    assert!(text.contains("-d 10.0.0.9/32 -p tcp -m comment --comment \"v/victim cluster IP\""));
    assert_eq!(text.matches("-d 10.0.0.9/32").count(), 1);
    assert_eq!(engine.problems().len(), 1);
}

#[test]
fn a_slice_of_five_thousand_endpoints_is_served() {
    let (service, mut slice) = victim();
    let endpoints: Vec<Value> =
        (0..5000u32).map(|i| json!({"addresses": [format!("10.2.{}.{}", i / 250, i % 250 + 1)]})).collect();
    slice["endpoints"] = json!(endpoints);
    let (text, engine) = payload(&[service], &[slice]);
    assert_eq!(text.matches("--to-destination").count(), 5000);
    assert!(engine.problems().is_empty());
}

#[test]
fn slices_that_cannot_be_used_say_why() {
    let (service, slice) = victim();
    let with = |path: &str, value: Value| {
        let mut slice = slice.clone();
        *slice.pointer_mut(path).unwrap() = value;
        problems(std::slice::from_ref(&service), &[slice])
    };
    assert_eq!(
        with("/metadata/labels", json!({})),
        ["EndpointSlice v/victim-1 | metadata.labels[kubernetes.io/service-name] |  | ignored"]
    );
    assert_eq!(with("/ports/0/port", Value::Null), ["EndpointSlice v/victim-1 | ports[0].port | null | ignored"]);
    assert_eq!(
        with("/endpoints/0/addresses/0", json!("fd00::1")),
        ["EndpointSlice v/victim-1 | endpoints[0].addresses[0] | fd00::1 | ignored"]
    );
    assert_eq!(with("/addressType", json!("ipv4")), ["EndpointSlice v/victim-1 | addressType | ipv4 | ignored"]);
}

#[test]
fn an_undecodable_object_keeps_its_previous_state() {
    let (service, slice) = victim();
    let (_, mut engine) = payload(std::slice::from_ref(&service), std::slice::from_ref(&slice));
    let mut broken = service.clone();
    broken["spec"]["ports"][0]["port"] = json!("eighty");
    let report =
        engine.replace(Kind::Service, &[&serde_json::to_vec(&json!([broken, {"metadata": {}}, 7])).unwrap()]).unwrap();
    assert_eq!((report.applied, report.rejected, report.changed), (0, 3, 0));
    assert!(engine.plan(Family::V4).unwrap().is_none(), "nothing is lost");
    let problem = &engine.problems()[2];
    assert_eq!(
        (problem.object.as_str(), &*problem.field, problem.value.as_str()),
        ("Service v/victim", "spec.ports[0].port", "\"eighty\"")
    );
    assert!(problem.reason.contains("invalid type: string"), "{}", problem.reason);

    // Correcting the object removes the problem; deleting it removes the rules.
    engine.replace(Kind::Service, &[&serde_json::to_vec(&json!([service])).unwrap()]).unwrap();
    assert!(engine.problems().is_empty());
    engine.replace(Kind::Service, &[b"[]"]).unwrap();
    assert!(engine.plan(Family::V4).unwrap().unwrap().deleted.len() > 1);
}

#[test]
fn input_that_is_not_a_list_changes_nothing() {
    let (service, slice) = victim();
    let (_, mut engine) = payload(&[service], &[slice]);
    for page in ["{\"kind\":\"Status\",\"code\":500}", "<html>", "", "[{]", "{\"items\":7}", "null"] {
        let error = engine.replace(Kind::Service, &[page.as_bytes()]).unwrap_err().to_string();
        assert!(error.contains("page 0"), "{error}");
    }
    assert!(engine.plan(Family::V4).unwrap().is_none());
    // An empty list of the API is a list.
    engine
        .replace(Kind::Service, &[br#"{"kind":"ServiceList","items":null,"metadata":{"resourceVersion":"7"}}"#])
        .unwrap();
    assert!(engine.plan(Family::V4).unwrap().is_some());
}

#[test]
fn watch_frames_report_what_a_watcher_must_know() {
    let mut engine = Engine::new(Options::new("n"));
    let frames = concat!(
        r#"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"n","resourceVersion":"5"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":1}]}}}"#,
        "\n",
        "\n<html>\n",
        r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#,
        "\n",
        r#"{"type":"ERROR","object":{"kind":"Status","code":410}}"#,
        "\n",
    );
    let report = engine.ingest(Kind::Service, frames.as_bytes());
    assert_eq!((report.applied, report.changed, report.bookmark, report.error_code), (1, 1, true, Some(410)));
    assert_eq!(report.resource_version, "9");
    assert!(report.malformed.unwrap().starts_with("frame 1:"));
    assert!(!report.in_sync);
}
