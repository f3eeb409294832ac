//! Addresses and networks mean what the parsers of Kubernetes make of them: `data/go-addresses.tsv` holds the answers of
//! `k8s.io/utils/net` to a thousand texts, valid ones, edges, and random edits of both.
#![allow(clippy::unwrap_used, missing_docs)]

use ferrule_engine::model::address::{Net, parse_ip};
use ferrule_engine::{Engine, Family, Kind, Options};
use serde_json::json;

const TABLE: &str = include_str!("data/go-addresses.tsv");

#[test]
fn every_text_means_what_kubernetes_reads() {
    let (mut addresses, mut networks) = (0, 0);
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let [text, address, network] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let text: String = serde_json::from_str(text).unwrap();
        let ours = parse_ip(&text).map_or_else(|_| "-".to_owned(), |ip| ip.to_string());
        assert_eq!(ours, address, "address {text:?}");
        let ours = Net::parse(&text).map_or_else(|_| "-".to_owned(), |net| net.to_string());
        assert_eq!(ours, network, "network {text:?}");
        addresses += usize::from(address != "-");
        networks += usize::from(network != "-");
    }
    assert!(addresses > 100 && networks > 100, "{addresses} addresses, {networks} networks");
}

/// The rules of both families for a load balancer whose addresses are spelled this way.
fn rules(v4: &dyn Fn(&str) -> String, v6: &dyn Fn(&str) -> String) -> Vec<String> {
    let labels = json!({"kubernetes.io/service-name": "a"});
    let slice = |name: &str, type_: &str, ip: String| {
        json!({"metadata": {"name": name, "labels": labels}, "addressType": type_, "ports": [{"port": 8080}],
            "endpoints": [{"addresses": [ip]}]})
    };
    let service = json!({
        "metadata": {"name": "a"},
        "spec": {"type": "LoadBalancer", "clusterIPs": [v4("10.96.0.1"), v6("fd96::1")], "ports": [{"port": 80}],
            "externalIPs": [v4("198.51.100.7"), v6("fd00::22")],
            "loadBalancerSourceRanges": [v4("192.168.50.0") + "/" + if v4("") == "::ffff:" { "120" } else { "24" }, v6("fd50::") + "/64"]},
        "status": {"loadBalancer": {"ingress": [{"ip": v4("203.0.113.5")}, {"ip": v6("fd00::50")}]}},
    });
    let slices = [slice("1", "IPv4", v4("10.244.1.10")), slice("2", "IPv6", v6("fd24:1::10"))];
    let mut engine = Engine::new(Options::new("node-1"));
    for (kind, items) in [(Kind::Service, &[service][..]), (Kind::EndpointSlice, &slices), (Kind::Node, &[])] {
        engine.replace(kind, &[&serde_json::to_vec(items).unwrap()]).unwrap();
    }
    assert_eq!(engine.problems(), []);
    let plan = |family| {
        engine.observe(family, b"").unwrap();
        String::from_utf8(engine.plan(family).unwrap().unwrap().payload()).unwrap()
    };
    Family::ALL.map(plan).into()
}

#[test]
fn odd_spellings_make_the_rules_of_the_plain_ones() {
    let same = |text: &str| text.to_owned();
    let plain = rules(&same, &same);
    assert!(plain[0].contains("-s 192.168.50.0/24") && plain[1].contains("-s fd50::/64"));
    assert_eq!(rules(&|ip| format!("::ffff:{ip}"), &same), plain, "IPv4-mapped");
    assert_eq!(rules(&|ip| format!("000{}", ip.replace('.', ".00")), &same), plain, "leading zeros");
    assert_eq!(rules(&same, &|ip| ip.replace("fd", "0000FD").replace("::", ":0:0::0")), plain, "IPv6");
}
