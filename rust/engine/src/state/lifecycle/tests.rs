//! Every transition of the table in the module's documentation.

use super::*;
use crate::input::node::Node;
use crate::model::address::Family;
use crate::options::Options;

const GENERATION: u64 = 7;

fn facts(zone: &str) -> NodeFacts {
    let mut facts = NodeFacts::of(Family::V4, &Options::new("node-1"), &Node::default(), &[]);
    facts.zone = Some(zone.into());
    facts
}

/// Foreign chains that differ by whether KUBE-FIREWALL exists.
fn foreign(firewall_exists: bool) -> ForeignChains {
    ForeignChains { entry_jumps: Vec::new(), firewall_exists }
}

fn plan(first_stage: bool, changes: Option<ForeignChains>) -> InFlight {
    InFlight {
        generation: GENERATION,
        written: Arc::default(),
        deleted: Arc::default(),
        ports: BTreeSet::new(),
        tree_chains: Vec::new(),
        first_stage,
        foreign: changes,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Unobserved,
    Unsettled,
    Settled,
    InFlight,
}

impl At {
    fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Unobserved => Self::Unobserved,
            Phase::Unsettled(_) => Self::Unsettled,
            Phase::Settled(_) => Self::Settled,
            Phase::InFlight(..) => Self::InFlight,
        }
    }

    fn with(self, in_flight: &InFlight) -> Phase {
        match self {
            Self::Unobserved => Phase::Unobserved,
            Self::Unsettled => Phase::Unsettled(foreign(false)),
            Self::Settled => Phase::Settled(foreign(false)),
            Self::InFlight => Phase::InFlight(foreign(false), in_flight.clone()),
        }
    }
}

/// An event, and what it leads to from each phase in `At`'s order.
type Row = (fn() -> Event, [Result<At, PlanError>; 4]);

const NOT_OBSERVED: Result<At, PlanError> = Err(PlanError::NotObserved);
const IN_FLIGHT: Result<At, PlanError> = Err(PlanError::InFlight);
const STALE: Result<At, PlanError> = Err(PlanError::Stale);

/// The rows that hold whatever plan is in flight, then those of its outcome.
fn rows(committed: At, abandoned: At) -> [Row; 7] {
    let planned = || Event::Planned(facts("a"), plan(false, None));
    [
        (|| Event::Observed(foreign(true)), [const { Ok(At::Unsettled) }; 4]),
        (|| Event::NothingToWrite(facts("a")), [NOT_OBSERVED, Ok(At::Settled), Ok(At::Settled), IN_FLIGHT]),
        (planned, [NOT_OBSERVED, Ok(At::InFlight), Ok(At::InFlight), IN_FLIGHT]),
        (|| Event::Committed(GENERATION), [STALE, STALE, STALE, Ok(committed)]),
        (|| Event::Abandoned(GENERATION), [STALE, STALE, STALE, Ok(abandoned)]),
        (|| Event::Committed(GENERATION - 1), [STALE; 4]),
        (|| Event::Abandoned(GENERATION + 1), [STALE; 4]),
    ]
}

#[test]
fn every_transition() {
    let cases = [
        (plan(false, None), At::Settled, At::Unsettled),
        (plan(true, None), At::Unsettled, At::Unsettled),
        (plan(false, Some(foreign(true))), At::Settled, At::Unobserved),
        (plan(true, Some(foreign(true))), At::Unsettled, At::Unobserved),
    ];
    for (in_flight, committed, abandoned) in cases {
        for (event, expected) in rows(committed, abandoned) {
            for (from, expected) in [At::Unobserved, At::Unsettled, At::Settled, At::InFlight].into_iter().zip(expected)
            {
                let mut lifecycle = Lifecycle { phase: from.with(&in_flight), extent: Extent::Nothing };
                let before = lifecycle.clone();
                let result = lifecycle.step(event());
                let case = format!("{from:?} {:?} with {in_flight:?}", event());
                match expected {
                    Ok(to) => assert_eq!(At::of(&lifecycle.phase), to, "{case}"),
                    Err(ref error) => {
                        assert_eq!(result.as_ref(), Err(error), "{case}");
                        assert_eq!(lifecycle, before, "an error changes nothing: {case}");
                    }
                }
                let ends = expected.is_ok() && matches!(event(), Event::Committed(_) | Event::Abandoned(_));
                assert_eq!(matches!(result, Ok(Some(_))), ends, "only an outcome returns its plan: {case}");
            }
        }
    }
}

#[test]
fn foreign_chains_are_those_of_the_last_observation_or_confirmed_plan() {
    let mut lifecycle = Lifecycle::default();
    assert_eq!((lifecycle.foreign(), lifecycle.may_plan()), (None, Err(PlanError::NotObserved)));
    lifecycle.step(Event::Observed(foreign(false))).unwrap();
    lifecycle.step(Event::Planned(facts("a"), plan(false, Some(foreign(true))))).unwrap();
    assert_eq!((lifecycle.foreign(), lifecycle.may_plan()), (Some(&foreign(false)), Err(PlanError::InFlight)));
    lifecycle.step(Event::Committed(GENERATION)).unwrap();
    assert_eq!((lifecycle.may_plan(), lifecycle.is_settled()), (Ok(&foreign(true)), true));
    lifecycle.step(Event::Planned(facts("a"), plan(false, None))).unwrap();
    assert!(!lifecycle.is_settled());
    lifecycle.step(Event::Abandoned(GENERATION)).unwrap();
    assert_eq!((lifecycle.may_plan(), lifecycle.is_settled()), (Ok(&foreign(true)), false));
}

#[test]
fn every_extent() {
    let (old, new) = (facts("a"), facts("b"));
    for (before, first_stage, after) in [
        (Extent::Nothing, true, Extent::FirstStage(new.clone())),
        (Extent::Nothing, false, Extent::Everything(new.clone())),
        (Extent::FirstStage(old.clone()), true, Extent::FirstStage(new.clone())),
        (Extent::FirstStage(old.clone()), false, Extent::Everything(new.clone())),
        (Extent::Everything(old.clone()), true, Extent::Everything(new.clone())),
        (Extent::Everything(old.clone()), false, Extent::Everything(new.clone())),
    ] {
        let phase = Phase::Unsettled(foreign(true));
        let mut lifecycle = Lifecycle { phase: phase.clone(), extent: before.clone() };
        lifecycle.step(Event::Planned(new.clone(), plan(first_stage, None))).unwrap();
        assert_eq!(lifecycle.extent, after, "{before:?} {first_stage}");
        assert_eq!(lifecycle.facts(), Some(&new));
        for event in [Event::Observed(foreign(true)), Event::Committed(GENERATION)] {
            lifecycle.step(event).ok();
            assert_eq!(lifecycle.extent, after, "only a plan renders");
        }
    }
    let mut refused = Lifecycle::default();
    assert!(refused.step(Event::NothingToWrite(new)).is_err());
    assert_eq!(refused.extent, Extent::Nothing);
}
