//! Invariant: no text makes read-back or removal of `iptables-save` output panic, and after read-back one plan restores
//! the desired rules.
#![no_main]

use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{BalanceLimits, Engine, ChainLayout, Options, TreeLimits};
use libfuzzer_sys::fuzz_target;

const SERVICES: &[u8] = br#"[{"metadata":{"name":"web","namespace":"app"},"spec":{"type":"NodePort","clusterIP":"10.96.10.1","ports":[{"name":"http","port":80,"nodePort":30080}]}}]"#;
const SLICES: &[u8] = br#"[{"metadata":{"name":"web-1","namespace":"app","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","ports":[{"name":"http","port":8080}],"endpoints":[{"addresses":["10.128.1.10"]},{"addresses":["10.128.1.11"]}]}]"#;

fuzz_target!(|data: &[u8]| {
    drop(ferrule_engine::removals(data));
    for dispatch in [ChainLayout::Flat, ChainLayout::Tree, ChainLayout::Auto] {
        read_back(dispatch, data);
    }
});

fn read_back(dispatch: ChainLayout, data: &[u8]) {
    let mut options = Options::new("node-1");
    options.dispatch = dispatch;
    options.tree_limits = TreeLimits { grow: 1, shrink: 1, leaf: 1, depth: 3 };
    options.balance = if dispatch == ChainLayout::Flat { ChainLayout::Flat } else { ChainLayout::Tree };
    options.balance_limits = BalanceLimits { auto: 1, tree: 1 };
    let mut engine = Engine::new(options);
    for (kind, list) in [(Kind::Service, SERVICES), (Kind::EndpointSlice, SLICES), (Kind::Node, b"[]".as_slice())] {
        engine.replace(kind, &[list]).expect("a list");
    }
    if engine.observe(Family::V4, data).is_err() {
        return;
    }
    if let Some(plan) = engine.plan(Family::V4).expect("observed") {
        engine.commit(&plan).expect("in flight");
    }
    assert!(engine.plan(Family::V4).expect("observed").is_none());
}
