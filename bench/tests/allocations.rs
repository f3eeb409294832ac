//! Bounds the allocations of one change, which must not depend on the size of the cluster.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)] // numbers for a change of the bounds

use std::sync::atomic::Ordering;

use ferrule_bench::counting::{ALLOCATIONS, Counting};
use ferrule_bench::{Shape, frame, list, service, slice};
use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{ChainLayout, Engine, Options};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: usize = 40;

/// Median allocations of ingest + plan + commit for: an endpoint replaced, a Service added, a Service deleted.
fn one_change(services: usize) -> [usize; 3] {
    let shape = Shape { services, endpoints: 4, node_port_every: 10 };
    let mut options = Options::new("node-1");
    options.dispatch = ChainLayout::Tree;
    let mut engine = Engine::new(options);
    let services: Vec<_> = (0..shape.services).map(|n| service(shape, n)).collect();
    let slices: Vec<_> = (0..shape.services).map(|n| slice(shape, n, 0)).collect();
    engine.replace(Kind::Service, &[&list(&services)]).unwrap();
    engine.replace(Kind::EndpointSlice, &[&list(&slices)]).unwrap();
    engine.replace(Kind::Node, &[b"[]"]).unwrap();
    engine.observe(Family::V4, b"").unwrap();
    let plan = engine.plan(Family::V4).unwrap().unwrap();
    engine.commit(&plan).unwrap();
    drop(plan);

    let mut counted = |batches: &[(Kind, Vec<u8>)]| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for (kind, frames) in batches {
            let report = engine.ingest(*kind, frames);
            assert_eq!((report.changed, report.rejected), (1, 0));
        }
        let plan = engine.plan(Family::V4).unwrap().expect("the change makes a difference");
        engine.commit(&plan).unwrap();
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    let mut counts: [Vec<usize>; 3] = Default::default();
    for i in 0..ROUNDS {
        let moved = frame(&slice(shape, i * 7919 % shape.services, i + 1));
        counts[0].push(counted(&[(Kind::EndpointSlice, moved)]));
        let n = shape.services + i;
        let event = |verb: &str, object| serde_json::json!({"type": verb, "object": object}).to_string().into_bytes();
        for (at, verb) in [(1, "ADDED"), (2, "DELETED")] {
            let of_slice = (Kind::EndpointSlice, event(verb, slice(shape, n, 0)));
            let of_service = (Kind::Service, event(verb, service(shape, n)));
            counts[at].push(counted(&[of_slice, of_service]));
        }
    }
    counts.map(|mut all| {
        all.sort_unstable();
        all[all.len() / 2]
    })
}

#[test]
fn one_change_allocates_little_whatever_the_size_of_the_cluster() {
    let (small, large) = (one_change(1_000), one_change(10_000));
    println!("at 1,000: {small:?}, at 10,000: {large:?}");
    for (i, what) in ["an endpoint replaced", "a Service added", "a Service deleted"].into_iter().enumerate() {
        assert!(
            large[i] <= BOUNDS[i],
            "{what}: {} allocations at 10,000 Services, {} are allowed",
            large[i],
            BOUNDS[i]
        );
        assert!(2 * large[i] <= 3 * small[i], "{what}: {} at 1,000 Services, {} at 10,000", small[i], large[i]);
    }
}

/// A quarter more than measured, so that a Rust or library release may differ slightly. The cost is decoding an object
/// (its strings), rendering the chains that differ, and the plan's text and names.
const BOUNDS: [usize; 3] = [300, 360, 275];
