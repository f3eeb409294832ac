//! Invariant: no bytes make decoding panic, and whatever is decoded yields text whose lines are complete and ASCII.
#![no_main]

use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{BalanceLimits, Engine, ChainLayout, Options, TreeLimits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for dispatch in [ChainLayout::Flat, ChainLayout::Tree, ChainLayout::Auto] {
        decode(dispatch, data);
    }
});

fn decode(dispatch: ChainLayout, data: &[u8]) {
    let mut options = Options::new("node-1");
    options.dispatch = dispatch;
    options.tree_limits = TreeLimits { grow: 1, shrink: 1, leaf: 1, depth: 3 };
    options.balance = if dispatch == ChainLayout::Flat { ChainLayout::Flat } else { ChainLayout::Tree };
    options.balance_limits = BalanceLimits { auto: 1, tree: 1 };
    let mut engine = Engine::new(options);
    for kind in Kind::ALL {
        // Input that is not a list changes nothing; the kind still has to be listed for a plan.
        if engine.replace(kind, &[data]).is_err() {
            engine.replace(kind, &[b"[]"]).expect("an empty list is a list");
        }
        engine.ingest(kind, data);
    }
    let _ = engine.problems();
    for family in Family::ALL {
        engine.observe(family, b"").expect("nothing there is an observation");
        let plan = engine.plan(family).expect("everything is listed").expect("an empty kernel needs rules");
        assert!(plan.payload().is_ascii() && plan.payload().ends_with(b"COMMIT\n"));
        for line in plan.payload().split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
            assert!(matches!(line[0], b'*' | b':' | b'-') || line == b"COMMIT", "{}", String::from_utf8_lossy(line));
            assert_eq!(line.iter().filter(|&&b| b == b'"').count() % 2, 0);
        }
        engine.commit(&plan).expect("it is in flight");
        assert!(engine.plan(family).expect("listed and observed").is_none());
    }
}
