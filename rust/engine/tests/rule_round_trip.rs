//! Invariant: every rule that ferrule can write is read back as the same rule, and written again as the same text.
//!
//! Rules come from rendering random clusters, which reaches every shape. The text passes through read-back (parse,
//! print, digest) and must be recognised rule by rule. A changed word anywhere must be detected.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::cluster::{BALANCES, Event, FEW, MODES, SMALL, World, event};
use common::kernel::Kernel;
use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{Engine, Options};
use proptest::prelude::*;

fn options(variant: u8) -> Options {
    let mut options = Options::new("node-1");
    options.dispatch = MODES[usize::from(variant) % MODES.len()];
    options.tree_limits = SMALL;
    options.balance = BALANCES[usize::from(variant) / MODES.len() % BALANCES.len()];
    options.balance_limits = FEW;
    options.nfacct_invalid_dropped = variant & 1 != 0;
    options.nfacct_localhost_accepted = variant & 2 != 0;
    options.masquerade_all = variant & 4 != 0;
    options.conntrack_tcp_be_liberal = variant & 8 != 0;
    options.masquerade_random_fully = variant & 16 != 0;
    let (mode, cidrs, interface): (&str, &[&str], &str) = match variant % 5 {
        0 => ("None", &[], ""),
        1 => ("ClusterCIDR", &["10.128.0.0/10", "fd00:10::/32"], ""),
        2 => ("BridgeInterface", &[], "cbr0"),
        3 => ("InterfaceNamePrefix", &[], "cali"),
        _ => ("ClusterCIDR", &["0.0.0.0/0"], ""),
    };
    options.set_local_detector(mode, cidrs, interface).unwrap();
    options.set_masquerade_bit(u32::from(variant % 32)).unwrap();
    if variant & 32 != 0 {
        options.set_node_port_addresses(&["172.31.250.0/24", "localhost"]).unwrap();
    }
    options
}

fn kernel_and_engine(events: &[Event], variant: u8, family: Family) -> (Kernel, Engine) {
    let mut world = World::default();
    for event in events {
        if let Event::Put(kind, name, object) = event {
            world.objects.insert((*kind, name.clone()), object.clone());
        }
    }
    let mut engine = Engine::new(options(variant));
    engine.set_local_addresses(&["127.0.0.1", "172.31.250.2"]).unwrap();
    for kind in Kind::ALL {
        engine.replace(kind, &[&world.list(kind)]).unwrap();
    }
    let mut kernel = Kernel::new();
    engine.observe(family, kernel.save().as_bytes()).unwrap();
    let plan = engine.plan(family).unwrap().unwrap();
    kernel.restore(&plan.payload(), 3).unwrap();
    engine.commit(&plan).unwrap();
    (kernel, engine)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_recognised(events in prop::collection::vec(event(), 0..25), variant in any::<u8>(), v6 in any::<bool>()) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let (kernel, mut engine) = kernel_and_engine(&events, variant, family);
        engine.observe(family, kernel.save().as_bytes()).unwrap();
        prop_assert!(engine.plan(family).unwrap().is_none());
    }

    #[test]
    fn a_changed_word_is_noticed(events in prop::collection::vec(event(), 5..25), variant in any::<u8>(), pick in any::<prop::sample::Index>()) {
        let (kernel, mut engine) = kernel_and_engine(&events, variant, Family::V4);
        let saved = kernel.save();
        let rules: Vec<&str> = saved.lines().filter(|l| l.starts_with("-A KUBE-") && !l.starts_with("-A KUBE-FIREWALL")).collect();
        let victim = rules[pick.index(rules.len())];
        for changed in [format!("{victim} --extra"), victim.replacen(" -", " -m limit -", 1), victim.replace("KUBE-MARK-MASQ", "RETURN")] {
            if changed == victim {
                continue;
            }
            engine.observe(Family::V4, saved.replacen(victim, &changed, 1).as_bytes()).unwrap();
            let plan = engine.plan(Family::V4).unwrap().expect("the chain must be written again");
            prop_assert_eq!(plan.written.len(), 1, "{}", changed);
            engine.commit(&plan).unwrap();
        }
    }
}
