//! Engine rows: decoding, a full plan, one changed endpoint or Service, heap; the last three with flat dispatch chains
//! and with trees, and for both the rules that a packet traverses (counted by a rule interpreter). Every row checks the
//! result of what it timed.
//!
//! Run by `make bench` (`cargo bench -p ferrule-bench` alone); refuses a debug build. bench/README.md lists what these
//! rows do not show.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)] // a report for people; a bench may panic

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferrule_bench::counting::{ALLOCATIONS, Counting, LIVE};
use ferrule_bench::{Shape, frame, list, service, slice};
use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{ChainLayout, Engine, Options};

#[path = "../rust/engine/tests/common/kernel.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, clippy::format_push_string)]
mod kernel;
#[path = "../rust/engine/tests/common/packet.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod packet;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REPEATS: usize = 5;

/// Prints one line: for people, or with `--json` for the bench that runs this one.
fn row(name: &str, value: &str, figures: &[(&str, f64)], bar: &str, ok: bool) -> bool {
    if std::env::args().any(|word| word == "--json") {
        let figures: serde_json::Map<_, _> = figures.iter().map(|&(unit, n)| (unit.to_owned(), n.into())).collect();
        println!("{}", serde_json::json!({"name": name, "text": value, "figures": figures, "bar": bar, "ok": ok}));
    } else {
        println!("{name:<44} {value:>22}   {bar:<22} {}", if ok { "ok" } else { "MISSED" });
    }
    ok
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn best(mut run: impl FnMut() -> Duration) -> Duration {
    (0..REPEATS).map(|_| run()).min().unwrap()
}

const MODES: [(&str, ChainLayout); 2] = [("flat", ChainLayout::Flat), ("tree", ChainLayout::Tree)];

fn options(dispatch: ChainLayout) -> Options {
    let mut options = Options::new("node-1");
    options.dispatch = dispatch;
    options.set_local_detector("ClusterCIDR", &["10.128.0.0/9"], "").unwrap();
    options
}

struct Cluster {
    services: Vec<u8>,
    slices: Vec<u8>,
}

impl Cluster {
    fn new(shape: Shape) -> Self {
        let services: Vec<_> = (0..shape.services).map(|n| service(shape, n)).collect();
        let slices: Vec<_> = (0..shape.services).map(|n| slice(shape, n, 0)).collect();
        Self { services: list(&services), slices: list(&slices) }
    }

    fn load(&self, dispatch: ChainLayout) -> Engine {
        self.load_with(options(dispatch))
    }

    fn load_with(&self, options: Options) -> Engine {
        let mut engine = Engine::new(options);
        engine.replace(Kind::Service, &[&self.services]).unwrap();
        engine.replace(Kind::EndpointSlice, &[&self.slices]).unwrap();
        engine.replace(Kind::Node, &[b"[]"]).unwrap();
        engine.observe(Family::V4, b"").unwrap();
        engine
    }
}

fn decode(shape: Shape, cluster: &Cluster) -> bool {
    let bytes = (cluster.services.len() + cluster.slices.len()) as f64;
    let time = best(|| {
        let mut engine = Engine::new(options(ChainLayout::Auto));
        let start = Instant::now();
        let a = engine.replace(Kind::Service, &[&cluster.services]).unwrap();
        let b = engine.replace(Kind::EndpointSlice, &[&cluster.slices]).unwrap();
        let time = start.elapsed();
        assert_eq!((a.applied, b.applied, a.rejected + b.rejected), (shape.services, shape.services, 0));
        time
    });
    let rate = bytes / time.as_secs_f64() / 1e6;
    row(
        &format!("decode_list_{}", shape.services),
        &format!("{rate:.0} MB/s ({:.0} ms)", milliseconds(time)),
        &[("MB/s", rate), ("ms", milliseconds(time))],
        ">= 100 MB/s",
        rate >= 100.0,
    )
}

fn full_plan(shape: Shape, cluster: &Cluster, bar: f64, (mode, dispatch): (&str, ChainLayout)) -> bool {
    let want = shape.services * (2 * shape.endpoints + shape.endpoints + 1);
    let mut size = 0;
    let time = best(|| {
        let mut engine = cluster.load(dispatch);
        let start = Instant::now();
        let plan = engine.plan(Family::V4).unwrap().unwrap();
        let time = start.elapsed();
        assert!(plan.rules_written >= want + shape.services, "{} rules", plan.rules_written);
        size = plan.text.len();
        time
    });
    let value = format!("{:.0} ms, {:.1} MB", time.as_secs_f64() * 1e3, size as f64 / 1e6);
    row(
        &format!("plan_full_{}x{}_{mode}", shape.services, shape.endpoints),
        &value,
        &[("ms", milliseconds(time)), ("MB", size as f64 / 1e6)],
        &format!("<= {bar} s"),
        time.as_secs_f64() <= bar,
    )
}

fn one_change(shape: Shape, cluster: &Cluster, (mode, dispatch): (&str, ChainLayout)) -> bool {
    let mut engine = cluster.load(dispatch);
    let plan = engine.plan(Family::V4).unwrap().unwrap();
    engine.commit(&plan).unwrap();
    let mut times = Vec::new();
    let (mut bytes, mut allocations) = (0, 0);
    for i in 0..500 {
        let frame = frame(&slice(shape, i * 7919 % shape.services, i + 1));
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let start = Instant::now();
        engine.ingest(Kind::EndpointSlice, &frame);
        let plan = engine.plan(Family::V4).unwrap().unwrap();
        times.push(start.elapsed());
        allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        // The balancing chain and the new endpoint's chain are written; the old endpoint's is deleted.
        assert_eq!((plan.written.len(), plan.deleted.len()), (2, 1), "{plan:?}");
        bytes = plan.text.len();
        engine.commit(&plan).unwrap();
    }
    times.sort_unstable();
    let (median, p99) = (times[250].as_secs_f64() * 1e3, times[495].as_secs_f64() * 1e3);
    let value = format!("{median:.3} / {p99:.3} ms p99");
    let figures = [("p50 ms", median), ("p99 ms", p99)];
    row(&format!("change_one_endpoint_{}_{mode}", shape.services), &value, &figures, "<= 1 ms p99", p99 <= 1.0)
        & row(
            &format!("change_one_endpoint_{}_{mode}_cost", shape.services),
            &format!("{bytes} bytes, {allocations} allocs"),
            &[("bytes", bytes as f64), ("allocations", allocations as f64)],
            "",
            true,
        )
}

/// Adds and deletes a Service with its endpoints: the cost of a change of dispatch.
fn one_service(shape: Shape, cluster: &Cluster, (mode, dispatch): (&str, ChainLayout)) -> bool {
    let mut engine = cluster.load(dispatch);
    let plan = engine.plan(Family::V4).unwrap().unwrap();
    engine.commit(&plan).unwrap();
    let (mut times, mut bytes, mut chains) = (Vec::new(), Vec::new(), 0);
    for i in 0..100 {
        let n = shape.services + 1 + i;
        for type_ in ["ADDED", "DELETED"] {
            let frame = |object| serde_json::json!({"type": type_, "object": object}).to_string().into_bytes();
            let (service, slice) = (frame(service(shape, n)), frame(slice(shape, n, 0)));
            let start = Instant::now();
            engine.ingest(Kind::EndpointSlice, &slice);
            engine.ingest(Kind::Service, &service);
            let plan = engine.plan(Family::V4).unwrap().unwrap();
            times.push(start.elapsed());
            assert!(plan.written.len() + plan.deleted.len() > shape.endpoints + 1, "{plan:?}");
            bytes.push(plan.text.len());
            chains = chains.max(plan.written.len() + plan.deleted.len());
            engine.commit(&plan).unwrap();
        }
    }
    times.sort_unstable();
    bytes.sort_unstable();
    let (median, p99) = (times[100].as_secs_f64() * 1e3, times[198].as_secs_f64() * 1e3);
    let value = format!("{median:.3} / {p99:.3} ms p99");
    let (bar, ok) = if dispatch == ChainLayout::Tree { ("<= 1 ms p99", p99 <= 1.0) } else { ("", true) };
    let figures = [("p50 ms", median), ("p99 ms", p99)];
    row(&format!("change_one_service_{}_{mode}", shape.services), &value, &figures, bar, ok)
        & row(
            &format!("change_one_service_{}_{mode}_cost", shape.services),
            &format!("{} / {} bytes max", bytes[100], bytes[199]),
            &[("p50 bytes", bytes[100] as f64), ("most bytes", bytes[199] as f64), ("most chains", chains as f64)],
            &format!("{chains} chains at most"),
            true,
        )
}

/// Counts the rules that the first packet of a flow traverses in all base chains: to the first, the middle and the last
/// Service of the flat chain, and to an address without a Service.
fn walks(shape: Shape, cluster: &Cluster) -> bool {
    let mut ok = true;
    let mut targets: Vec<String> = Vec::new();
    for (mode, dispatch) in MODES {
        let plan = cluster.load(dispatch).plan(Family::V4).unwrap().unwrap();
        let mut kernel = kernel::Kernel::new();
        kernel.restore(&plan.payload(), usize::MAX).unwrap();
        let saved = kernel.save();
        if targets.is_empty() {
            let rules = saved.lines().filter_map(|l| l.strip_prefix("-A KUBE-SERVICES -d ")?.split('/').next());
            let all: Vec<&str> = rules.collect();
            targets = [0, all.len() / 2, all.len() - 1].map(|i| all[i].to_owned()).to_vec();
            targets.push("192.0.2.1".to_owned());
        }
        let rules = packet::Rules::new(&saved, &["172.31.250.2"]);
        let mut walked = Vec::new();
        for (i, ip) in targets.iter().enumerate() {
            let fate = rules.fate(&packet::Packet {
                source: "10.128.0.1".parse().unwrap(),
                destination: ip.parse().unwrap(),
                protocol: "tcp",
                port: 80,
                interface: "eth0",
                remembered: false,
            });
            let served = fate.outcomes.keys().all(|o| o.destination.is_some());
            assert_eq!((served, fate.outcomes.len()), (i < 3, if i < 3 { shape.endpoints } else { 1 }));
            walked.push(fate.walked);
        }
        let value = format!("{} {} {} {}", walked[0], walked[1], walked[2], walked[3]);
        let (bar, fine) = if dispatch == ChainLayout::Tree {
            ("<= 120 each", walked.iter().all(|&n| n <= 120))
        } else {
            ("first middle last miss", true)
        };
        let figures: Vec<_> =
            ["first", "middle", "last", "miss"].into_iter().zip(walked.iter().map(|&n| n as f64)).collect();
        ok &= row(&format!("rules_walked_{}_{mode}", shape.services), &value, &figures, bar, fine);
    }
    ok
}

/// Services of many endpoints: rules that a first packet traverses, and the cost of one replaced endpoint.
fn many_endpoints(shape: Shape) -> bool {
    let cluster = Cluster::new(shape);
    let mut ok = true;
    let mut flat = None;
    for (mode, balance) in [("flat", ChainLayout::Flat), ("tree", ChainLayout::Auto)] {
        let mut options = options(ChainLayout::Auto);
        options.balance = balance;
        let mut engine = cluster.load_with(options);
        let start = Instant::now();
        let plan = engine.plan(Family::V4).unwrap().unwrap();
        let (full, size, chains) = (start.elapsed(), plan.text.len(), plan.chains_written().len());
        let mut kernel = kernel::Kernel::new();
        kernel.restore(&plan.payload(), usize::MAX).unwrap();
        engine.commit(&plan).unwrap();
        let packet = packet::Packet {
            source: "10.128.0.1".parse().unwrap(),
            destination: "10.96.0.1".parse().unwrap(),
            protocol: "tcp",
            port: 80,
            interface: "eth0",
            remembered: false,
        };
        let fate = packet::Rules::new(&kernel.save(), &["172.31.250.2"]).fate(&packet);
        assert_eq!(fate.outcomes.len(), shape.endpoints);
        let mut costs = Vec::new();
        for i in 0..50 {
            let frame = frame(&slice(shape, i % shape.services, i + 1));
            let start = Instant::now();
            engine.ingest(Kind::EndpointSlice, &frame);
            let plan = engine.plan(Family::V4).unwrap().unwrap();
            costs.push((plan.text.len(), plan.rules_written, start.elapsed()));
            engine.commit(&plan).unwrap();
        }
        costs.sort_unstable();
        let (bytes, rules, time) = costs[25];
        let shape = format!("{}x{}_{mode}", shape.services, shape.endpoints);
        let (mean, bytes_flat) = *flat.get_or_insert((fate.mean, bytes));
        let fine = mode == "flat" || (fate.mean * 4.0 < mean && bytes * 4 < bytes_flat);
        let value = format!("{:.0} / {} most", fate.mean, fate.walked);
        #[allow(clippy::cast_precision_loss)] // counts far below 2^52
        let walked = [("mean", fate.mean), ("most", fate.walked as f64)];
        ok &= row(&format!("rules_walked_{shape}"), &value, &walked, "tree: < a quarter", fine);
        let value = format!("{bytes} bytes, {rules} rules, {:.2} ms", time.as_secs_f64() * 1e3);
        #[allow(clippy::cast_precision_loss)]
        let cost = [("bytes", bytes as f64), ("rules", rules as f64), ("ms", milliseconds(time))];
        ok &= row(&format!("change_one_endpoint_{shape}"), &value, &cost, "tree: < a quarter", fine);
        #[allow(clippy::cast_precision_loss)]
        let whole = [("ms", milliseconds(full)), ("MB", size as f64 / 1e6), ("chains", chains as f64)];
        let value = format!("{:.0} ms, {:.1} MB, {chains} chains", whole[0].1, whole[1].1);
        ok &= row(&format!("plan_full_{shape}"), &value, &whole, "", true);
    }
    ok
}

fn heap(shape: Shape, cluster: &Cluster, (mode, dispatch): (&str, ChainLayout)) -> bool {
    let before = LIVE.load(Ordering::Relaxed);
    let mut engine = cluster.load(dispatch);
    let stored = LIVE.load(Ordering::Relaxed) - before;
    let plan = engine.plan(Family::V4).unwrap().unwrap();
    engine.commit(&plan).unwrap();
    drop(plan);
    let applied = LIVE.load(Ordering::Relaxed) - before;
    let value = format!("{} + {} bytes", stored / shape.services, (applied - stored) / shape.services);
    let bytes = |all: usize| all as f64 / shape.services as f64;
    let figures = [("objects bytes", bytes(stored)), ("state bytes", bytes(applied - stored))];
    let name = format!("heap_per_service_{}x{}_{mode} (objects + state)", shape.services, shape.endpoints);
    row(&name, &value, &figures, "", true)
}

fn main() {
    if cfg!(debug_assertions) {
        println!("a debug build measures nothing: use `make bench`");
        std::process::exit(2);
    }
    eprintln!("engine rows, best of {REPEATS}; {} {}", std::env::consts::ARCH, std::env::consts::OS);
    let ten = Shape { services: 10_000, endpoints: 4, node_port_every: 10 };
    let thirty = Shape { services: 30_000, ..ten };
    let mut ok = true;
    for (shape, bar) in [(ten, 0.25), (thirty, 0.5)] {
        let cluster = Cluster::new(shape);
        ok &= decode(shape, &cluster);
        for mode in MODES {
            ok &= full_plan(shape, &cluster, bar, mode);
            ok &= one_change(shape, &cluster, mode);
            ok &= one_service(shape, &cluster, mode);
            ok &= heap(shape, &cluster, mode);
        }
        ok &= walks(shape, &cluster);
    }
    ok &= many_endpoints(Shape { services: 1, endpoints: 1000, ..ten });
    ok &= many_endpoints(Shape { services: 500, endpoints: 500, ..ten });
    std::process::exit(i32::from(!ok));
}
