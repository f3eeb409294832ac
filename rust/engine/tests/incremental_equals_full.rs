//! Invariant: after any sequence of events — permuted, repeated, merged, with restores that fail halfway and foreign
//! edits — the kernel holds exactly what a fresh engine writes for the final state onto an empty kernel.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::cluster::{BALANCES, Event, FEW, MODES, SMALL, World, event};
use common::kernel::{FOREIGN, Kernel};
use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{ChainLayout, Engine, Options, PlanError, WriteStrategy};
use proptest::prelude::*;
use serde_json::json;

const STRATEGIES: [WriteStrategy; 3] = [WriteStrategy::OneBlock, WriteStrategy::OrderedBlocks, WriteStrategy::Netlink];

fn engine(strategy: WriteStrategy) -> Engine {
    engine_with(strategy, (ChainLayout::Flat, ChainLayout::Flat))
}

fn engine_with(strategy: WriteStrategy, (dispatch, balance): (ChainLayout, ChainLayout)) -> Engine {
    let mut options = Options::new("node-1");
    options.dispatch = dispatch;
    options.tree_limits = SMALL;
    options.balance = balance;
    options.balance_limits = FEW;
    options.set_first_services(&["ns/b", "ns/none"]).unwrap();
    options.first_stage_above = 1;
    options.write_strategy = strategy;
    options.set_local_detector("ClusterCIDR", &["10.128.0.0/10"], "").unwrap();
    options.nfacct_localhost_accepted = true;
    let mut engine = Engine::new(options);
    engine.set_local_addresses(&["127.0.0.1", "172.31.250.2"]).unwrap();
    engine
}

fn relist(engine: &mut Engine, world: &World) {
    for kind in Kind::ALL {
        engine.replace(kind, &[&world.list(kind)]).unwrap();
    }
}

/// Relists in pieces, after a list that breaks off.
fn relist_in_pieces(engine: &mut Engine, world: &World) {
    for (i, kind) in Kind::ALL.into_iter().enumerate() {
        let list = world.list(kind);
        engine.begin_list(kind);
        engine.feed_list(kind, &list[..list.len() - 1]).unwrap();
        engine.end_list(kind).unwrap_err();
        engine.begin_list(kind);
        for piece in list.chunks(7 + 30 * i) {
            engine.feed_list(kind, piece).unwrap();
        }
        engine.end_list(kind).unwrap();
    }
}

/// Counts the rules in ferrule's chains by table, from the output of iptables-save.
fn rules_in(saved: &str) -> [usize; 3] {
    let mut counts = [0; 3];
    let mut table = 0;
    for line in saved.lines() {
        match line {
            "*filter" => table = 0,
            "*nat" => table = 1,
            "*mangle" => table = 2,
            _ if line.starts_with("-A KUBE-") && !line.starts_with("-A KUBE-FIREWALL") => counts[table] += 1,
            _ => {}
        }
    }
    counts
}

/// Sorts the rules of tree chains. Where order matters, digests include it; otherwise a chain with reordered rules
/// stays as it is. (Flat chains have rules whose order always matters, so a reordered one is written again.)
fn in_order(saved: &str) -> Vec<String> {
    let mut lines: Vec<String> = saved.lines().map(str::to_owned).collect();
    let of_tree = |line: &str| line.starts_with("-A KUBE-SVC-DSP-") || line.contains(" -j KUBE-SVC-DSP-");
    let chain = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    for part in lines.chunk_by_mut(|a, b| of_tree(a) && of_tree(b) && chain(a) == chain(b)) {
        part.sort_unstable();
    }
    lines
}

fn frame(engine: &mut Engine, kind: Kind, type_: &str, object: &serde_json::Value) {
    let frame = serde_json::to_vec(&json!({"type": type_, "object": object})).unwrap();
    let report = engine.ingest(kind, &frame);
    assert_eq!((report.rejected, report.malformed), (0, None));
}

/// The outcome of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Synced {
    Nothing,
    FirstStage,
    Written,
}

/// Carries out one plan like the sync loop: observe if required, plan, restore, report. With `Some(n)` the restore dies
/// after n COMMITs.
fn sync(engine: &mut Engine, kernel: &mut Kernel, dies_after: Option<usize>) -> Synced {
    let plan = match engine.plan(Family::V4) {
        Err(PlanError::NotObserved) => {
            engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
            engine.plan(Family::V4).unwrap()
        }
        plan => plan.unwrap(),
    };
    let Some(plan) = plan else { return Synced::Nothing };
    let transactions = dies_after.unwrap_or(usize::MAX);
    let written = match plan.write_strategy {
        WriteStrategy::Netlink => kernel.transact(Family::V4, plan.text.clone(), transactions),
        _ => kernel.restore(&plan.payload(), transactions),
    };
    if let Err(refusal) = written {
        // Only a foreign rule that was added after the last observation may cause that, and one observation resolves
        // it.
        assert!(refusal.starts_with(FOREIGN), "{refusal}\n{}", String::from_utf8_lossy(&plan.payload()));
        engine.abandon(&plan).unwrap();
        assert_eq!(engine.observe(Family::V4, kernel.save().as_bytes()).unwrap().held, kernel_held(engine));
        let plan = engine.plan(Family::V4).unwrap();
        if let Some(plan) = plan {
            kernel.restore(&plan.payload(), usize::MAX).unwrap();
            engine.commit(&plan).unwrap();
        }
        return Synced::Written;
    }
    if dies_after.is_none() {
        engine.commit(&plan).unwrap();
    } else {
        engine.abandon(&plan).unwrap();
    }
    if plan.more { Synced::FirstStage } else { Synced::Written }
}

/// Carries out all stages. Returns whether there was anything to write.
fn sync_all(engine: &mut Engine, kernel: &mut Kernel) -> bool {
    match sync(engine, kernel, None) {
        Synced::Nothing => false,
        Synced::Written => true,
        Synced::FirstStage => {
            assert!(engine.conntrack_view(Family::V4).is_none(), "a first stage settles nothing");
            assert_ne!(sync(engine, kernel, None), Synced::FirstStage);
            true
        }
    }
}

fn foreign_edit(kernel: &mut Kernel, how: usize) {
    let nat = kernel.table_mut("nat");
    match how {
        0 => nat.retain(|name, rules| {
            rules.clear();
            !name.starts_with("KUBE-")
        }),
        1 => nat.values_mut().for_each(|rules| rules.truncate(1)),
        2 => kernel.table_mut("filter").values_mut().for_each(Vec::clear),
        _ => nat.values_mut().for_each(|rules| rules.reverse()),
    }
}

/// Returns the stale chains that the engine reports as not deletable.
fn kernel_held(engine: &Engine) -> Vec<String> {
    engine.facts(Family::V4).held.into_iter().map(|(chain, _)| chain).collect()
}

/// Checks that with foreign references in place, the rules are those of a fresh start, and chains that only the
/// references keep are empty, also for a restarted engine. Then removes the references and checks that one observation
/// is enough to delete these chains.
fn check_foreign_references(
    world: &World,
    engine: &mut Engine,
    kernel: &mut Kernel,
    new: &dyn Fn() -> Engine,
) -> Result<(), TestCaseError> {
    engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
    sync_all(engine, kernel);
    let held = engine.facts(Family::V4).held;
    let mut restarted = new();
    relist(&mut restarted, world);
    restarted.observe(Family::V4, kernel.save().as_bytes()).unwrap();
    prop_assert!(restarted.plan(Family::V4).unwrap().is_none(), "a restart over held chains writes nothing");
    prop_assert_eq!(&restarted.facts(Family::V4).held, &held);
    for (chain, by) in &held {
        // Two tables may have chains of one name.
        let (table, name) = chain.split_once(' ').unwrap();
        let table = kernel.table_mut(table);
        prop_assert_eq!(by, FOREIGN);
        prop_assert!(table[name].is_empty(), "{} is not empty", chain);
        let references = table[FOREIGN].iter().filter(|rule| rule.ends_with(&format!(" {name}"))).count();
        prop_assert!(references > 0, "{} is not referenced", chain);
    }
    kernel.unreference();
    let without: Vec<String> = kernel.save().lines().filter(|l| l.starts_with("-A")).map(str::to_owned).collect();
    engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
    prop_assert_eq!(sync_all(engine, kernel), !held.is_empty());
    let after: Vec<String> = kernel.save().lines().filter(|l| l.starts_with("-A")).map(str::to_owned).collect();
    prop_assert_eq!(without, after, "only empty chains go");
    Ok(())
}

fn run(events: &[Event], strategy: WriteStrategy, mut mode: (ChainLayout, ChainLayout)) -> Result<(), TestCaseError> {
    let (mut world, mut engine, mut kernel) = (World::default(), engine_with(strategy, mode), Kernel::new());
    relist(&mut engine, &world);
    for event in events {
        match event {
            Event::Put(kind, name, object) => {
                world.objects.insert((*kind, name.clone()), object.clone());
                world.last = Some((*kind, object.clone()));
                frame(&mut engine, *kind, "MODIFIED", object);
            }
            Event::Delete(kind, name) => {
                if let Some(object) = world.objects.remove(&(*kind, name.clone())) {
                    frame(&mut engine, *kind, "DELETED", &object);
                    world.last = None;
                }
            }
            Event::Repeat => {
                if let Some((kind, object)) = &world.last {
                    frame(&mut engine, *kind, "ADDED", object);
                }
            }
            Event::Relist => relist_in_pieces(&mut engine, &world),
            Event::Sync => _ = sync(&mut engine, &mut kernel, None),
            Event::Fail(commits) => _ = sync(&mut engine, &mut kernel, Some(*commits)),
            Event::Observe => _ = engine.observe(Family::V4, kernel.save().as_bytes()).unwrap(),
            Event::ForeignEdit(how) => {
                foreign_edit(&mut kernel, *how);
                engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
            }
            Event::Reference(nth) => kernel.reference(*nth),
            Event::Unreference => kernel.unreference(),
            Event::Restart(dispatch, balance) => {
                mode = (MODES[*dispatch], BALANCES[*balance]);
                engine = engine_with(strategy, mode);
                relist(&mut engine, &world);
            }
        }
    }
    sync_all(&mut engine, &mut kernel);
    prop_assert!(!sync_all(&mut engine, &mut kernel), "a second sync has nothing to do");
    check_foreign_references(&world, &mut engine, &mut kernel, &|| engine_with(strategy, mode))?;

    let (mut fresh, mut empty) = (engine_with(strategy, mode), Kernel::new());
    relist(&mut fresh, &world);
    if mode.0 == ChainLayout::Auto {
        // Between the two thresholds a chain keeps its layout, which is read from the kernel.
        prop_assert!(!sync_all(&mut fresh, &mut kernel.clone()), "a restart over right rules writes nothing");
        fresh.observe(Family::V4, empty.save().as_bytes()).unwrap();
    }
    sync_all(&mut fresh, &mut empty);
    prop_assert_eq!(in_order(&kernel.save()), in_order(&empty.save()));
    prop_assert_eq!(engine.problems(), fresh.problems());
    prop_assert_eq!(engine.health_checks(), fresh.health_checks());
    prop_assert_eq!(engine.facts(Family::V4), fresh.facts(Family::V4));
    prop_assert_eq!(engine.facts(Family::V4).rules, rules_in(&kernel.save()));

    // A fresh engine reads the same state from the kernel.
    let mut restarted = engine_with(strategy, mode);
    relist(&mut restarted, &world);
    restarted.observe(Family::V4, kernel.save().as_bytes()).unwrap();
    prop_assert!(restarted.plan(Family::V4).unwrap().is_none(), "a restart over right rules writes nothing");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_ends_like_a_fresh_start(
        events in prop::collection::vec(event(), 1..40), strategy in 0..STRATEGIES.len(),
        dispatch in 0..MODES.len(), balance in 0..BALANCES.len(),
    ) {
        run(&events, STRATEGIES[strategy], (MODES[dispatch], BALANCES[balance]))?;
    }
}

#[test]
fn nothing_is_planned_before_every_kind_is_listed() {
    let mut engine = engine(WriteStrategy::OneBlock);
    engine.observe(Family::V4, b"").unwrap();
    for (listed, missing) in [(Kind::Node, "Service"), (Kind::Service, "EndpointSlice")] {
        engine.replace(listed, &[b"[]"]).unwrap();
        assert_eq!(engine.plan(Family::V4).unwrap_err(), PlanError::NotListed(missing));
    }
    engine.replace(Kind::EndpointSlice, &[b"[]"]).unwrap();
    assert!(engine.plan(Family::V4).unwrap().is_some());
    assert_eq!(engine.plan(Family::V4).unwrap_err(), PlanError::InFlight);
}

#[test]
fn a_list_takes_effect_when_it_ends_and_only_then() {
    let mut engine = engine(WriteStrategy::OneBlock);
    let list = br#"{"kind":"ServiceList","metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a","namespace":"n"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":1}]}}]}"#;
    let services =
        |engine: &Engine| serde_json::from_str::<serde_json::Value>(&engine.snapshot()).unwrap()["services"].clone();
    engine.feed_list(Kind::Service, list).unwrap_err();
    engine.begin_list(Kind::Service);
    engine.feed_list(Kind::Service, list).unwrap();
    assert_eq!(services(&engine), 0);
    let report = engine.end_list(Kind::Service).unwrap();
    assert_eq!((report.resource_version.as_str(), report.changed, report.in_sync), ("9", 1, true));
    assert_eq!(services(&engine), 1);
    // The same list changes nothing; a broken item, or a Status, removes nothing.
    engine.begin_list(Kind::Service);
    engine.feed_list(Kind::Service, list).unwrap();
    assert_eq!(engine.end_list(Kind::Service).unwrap().changed, 0);
    for bad in [&br#"{"items":[{"a":tru}]}"#[..], br#"{"kind":"Status","code":500}"#, b"<html>"] {
        engine.begin_list(Kind::Service);
        let fed = engine.feed_list(Kind::Service, bad);
        assert!(fed.is_err() || engine.end_list(Kind::Service).is_err());
    }
    assert_eq!(services(&engine), 1);
    // A watch event in between invalidates the staged list.
    engine.begin_list(Kind::Service);
    engine.feed_list(Kind::Service, list).unwrap();
    frame(&mut engine, Kind::Service, "DELETED", &json!({"metadata": {"name": "a", "namespace": "n"}}));
    engine.end_list(Kind::Service).unwrap_err();
    assert_eq!(services(&engine), 0);
}

#[test]
fn without_external_ips_a_service_keeps_its_other_addresses() {
    let service = json!([{"metadata": {"name": "a", "namespace": "n"},
        "spec": {"clusterIP": "10.0.0.1", "externalIPs": ["192.0.2.7"], "ports": [{"port": 1}]}}]);
    let text = |external_ips: bool| {
        let mut options = Options::new("node-1");
        options.external_ips = external_ips;
        let mut engine = Engine::new(options);
        relist(&mut engine, &World::default());
        engine.replace(Kind::Service, &[&serde_json::to_vec(&service).unwrap()]).unwrap();
        engine.observe(Family::V4, b"").unwrap();
        let text = String::from_utf8(engine.plan(Family::V4).unwrap().unwrap().payload()).unwrap();
        (text, engine.problems())
    };
    let (with, none) = text(true);
    let (without, told) = text(false);
    assert!(with.contains("192.0.2.7") && with.contains("10.0.0.1") && none.is_empty());
    assert!(!without.contains("192.0.2.7") && without.contains("10.0.0.1"));
    assert_eq!((told[0].field.as_ref(), told[0].value.as_str()), ("spec.externalIPs", "192.0.2.7"));
}

#[test]
fn change_triggers_come_from_watches_only() {
    let mut engine = engine(WriteStrategy::OneBlock);
    let slice = |n: u16| {
        json!({"metadata": {"name": "s", "namespace": "n", "labels": {"kubernetes.io/service-name": "a"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": format!("2026-01-01T00:00:0{n}Z"), "other": "x"}},
            "addressType": "IPv4", "ports": [{"port": n}], "endpoints": []})
    };
    engine.replace(Kind::EndpointSlice, &[&serde_json::to_vec(&json!([slice(1)])).unwrap()]).unwrap();
    frame(&mut engine, Kind::EndpointSlice, "MODIFIED", &slice(1));
    assert!(engine.take_change_triggers().is_empty(), "nothing changed");
    frame(&mut engine, Kind::EndpointSlice, "MODIFIED", &slice(2));
    frame(&mut engine, Kind::EndpointSlice, "DELETED", &slice(2));
    let triggers = engine.take_change_triggers();
    assert_eq!(triggers.iter().map(|t| &**t).collect::<Vec<_>>(), ["2026-01-01T00:00:02Z"]);
    assert!(engine.take_change_triggers().is_empty());
}

/// Services `ns/s0`, `ns/s1`, …; the last is DNS by its label, the one before by the name that the tests give.
fn many(services: usize) -> World {
    let mut world = World::default();
    for n in 0..services {
        let name = if n + 2 == services { "b".to_owned() } else { format!("s{n}") };
        let labels = if n + 1 == services { json!({"k8s-app": "kube-dns"}) } else { json!({"k8s-app": "web"}) };
        let service = json!({"metadata": {"name": name, "namespace": "ns", "labels": labels},
            "spec": {"clusterIP": format!("10.96.{}.{}", n / 250, n % 250 + 1), "ports": [{"port": 53}]}});
        let slice = json!({"metadata": {"name": format!("{name}-1"), "namespace": "ns", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"port": 53}],
            "endpoints": [{"addresses": [format!("10.128.{}.{}", n / 250, n % 250 + 1)]}]});
        world.objects.insert((Kind::Service, name.clone()), service);
        world.objects.insert((Kind::EndpointSlice, name), slice);
    }
    world
}

#[test]
fn a_large_start_begins_with_what_others_wait_for() {
    for strategy in STRATEGIES {
        let (mut engine, mut kernel) = (engine(strategy), Kernel::new());
        relist(&mut engine, &many(600));
        engine.observe(Family::V4, kernel.save().as_bytes()).unwrap();
        let first = engine.plan(Family::V4).unwrap().unwrap();
        assert!(first.more && first.full);
        assert_eq!(first.text.blocks(), 3, "one a table");
        let chains = first.chains_written();
        assert_eq!(chains.iter().filter(|c| c.contains("KUBE-SVC-")).count(), 2);
        assert_eq!(chains.iter().filter(|c| c.contains("KUBE-SEP-")).count(), 2);
        assert!(first.entry_jumps_inserted.len() > 5);
        let text = String::from_utf8(first.payload()).unwrap();
        assert_eq!(text.matches("ns/s").count(), text.matches("ns/s599").count());
        assert!(!text.contains("REJECT"), "nothing is said yet of those that are to come");
        kernel.restore(&first.payload(), 3).unwrap();
        engine.commit(&first).unwrap();
        assert!(engine.conntrack_view(Family::V4).is_none());

        let rest = engine.plan(Family::V4).unwrap().unwrap();
        assert!(!rest.more && rest.full && rest.entry_jumps_inserted.is_empty());
        assert_eq!(rest.chains_written().iter().filter(|c| c.contains("KUBE-SVC-")).count(), 598);
        kernel.restore(&rest.payload(), usize::MAX).unwrap();
        engine.commit(&rest).unwrap();
        assert!(engine.plan(Family::V4).unwrap().is_none() && engine.conntrack_view(Family::V4).is_some());
    }
}

#[test]
fn only_an_empty_kernel_and_a_large_cluster_are_begun_in_stages() {
    // The kernel holds some chains of ferrule.
    let (mut engine, mut kernel) = (engine(WriteStrategy::OrderedBlocks), Kernel::new());
    relist(&mut engine, &World::default());
    assert_eq!(sync(&mut engine, &mut kernel, None), Synced::Written);
    for world in [many(600), World::default()] {
        let mut restarted = self::engine(WriteStrategy::OrderedBlocks);
        relist(&mut restarted, &world);
        let before = kernel.save();
        restarted.observe(Family::V4, before.as_bytes()).unwrap();
        assert!(restarted.plan(Family::V4).unwrap().is_none_or(|plan| !plan.more && plan.deleted.is_empty()));
    }
    // Another process flushed everything while the engine ran: dispatch chains hold every Service's rules.
    relist(&mut engine, &many(600));
    assert_eq!(sync(&mut engine, &mut kernel, None), Synced::Written);
    let mut empty = Kernel::new();
    engine.observe(Family::V4, empty.save().as_bytes()).unwrap();
    assert_eq!(sync(&mut engine, &mut empty, None), Synced::Written);
    assert_eq!(empty.save(), kernel.save());
    // Few Services, or none of the first stage.
    let mut small = self::engine(WriteStrategy::OrderedBlocks);
    relist(&mut small, &many(1));
    assert_eq!(sync(&mut small, &mut Kernel::new(), None), Synced::Written);
    let mut options = Options::new("node-1");
    options.first_stage_above = 1;
    let mut unnamed = Engine::new(options);
    relist(&mut unnamed, &many(600));
    assert_eq!(sync(&mut unnamed, &mut Kernel::new(), None), Synced::Written);
}

#[test]
fn a_plan_of_another_generation_is_refused() {
    let (mut engine, mut kernel) = (engine(WriteStrategy::OneBlock), Kernel::new());
    relist(&mut engine, &World::default());
    engine.observe(Family::V4, b"").unwrap();
    let plan = engine.plan(Family::V4).unwrap().unwrap();
    kernel.restore(&plan.payload(), 3).unwrap();
    engine.commit(&plan).unwrap();
    assert_eq!(engine.commit(&plan).unwrap_err(), PlanError::Stale);
    assert_eq!(engine.abandon(&plan).unwrap_err(), PlanError::Stale);
}

#[test]
fn same_state_same_bytes() {
    let mut world = World::default();
    for name in ["a", "b", "c"] {
        let service = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"clusterIP": format!("10.0.0.{}", name.as_bytes()[0]), "ports": [{"port": 1}]}});
        world.objects.insert((Kind::Service, name.to_owned()), service);
    }
    let plan = |reverse: bool| {
        let mut engine = engine(WriteStrategy::OneBlock);
        relist(&mut engine, &World::default());
        let mut objects: Vec<_> = world.objects.iter().collect();
        if reverse {
            objects.reverse();
        }
        for ((kind, _), object) in objects {
            frame(&mut engine, *kind, "ADDED", object);
        }
        engine.observe(Family::V4, b"").unwrap();
        engine.plan(Family::V4).unwrap().unwrap().payload()
    };
    assert_eq!(plan(false), plan(true));
}
