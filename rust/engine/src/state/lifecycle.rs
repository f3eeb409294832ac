//! The lifecycle of one family's rules: when a plan may be made, and what its outcome means.
//!
//! | Phase | observed | nothing to write | planned | committed | abandoned |
//! |---|---|---|---|---|---|
//! | `Unobserved` | `Unsettled` | error | error | error | error |
//! | `Unsettled` | `Unsettled` | `Settled` | `InFlight` | error | error |
//! | `Settled` | `Unsettled` | `Settled` | `InFlight` | error | error |
//! | `InFlight` | `Unsettled` | error | error | `Settled`; of a first stage `Unsettled` | `Unsettled`; of one with entry jumps `Unobserved` |
//!
//! An event that ends in an error leaves the phase as it is. An observation forgets the plan in flight: it shows the
//! plan's outcome.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::PlanError;
use crate::model::names::{ChainId, PortName, Table};
use crate::rules::dispatch_tree::chains::TreeChain;
use crate::rules::rule::Rule;
use crate::rules::ruleset::NodeFacts;

/// Foreign chains as of the last observation or confirmed plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForeignChains {
    pub(super) entry_jumps: Vec<(Table, String, Rule)>,
    pub(super) firewall_exists: bool,
}

/// The plan in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) generation: u64,
    pub(super) written: Arc<[ChainId]>,
    pub(super) deleted: Arc<[ChainId]>,
    pub(super) ports: BTreeSet<PortName>,
    pub(super) tree_chains: Vec<TreeChain>,
    /// It is a first stage: the next plan contains the rest.
    pub(super) first_stage: bool,
    /// The foreign chains once it is written; `None` if it leaves them as they are.
    pub(super) foreign: Option<ForeignChains>,
}

/// Where the family is between observations, plans and outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// The foreign chains are unknown: no plan is made before an observation.
    #[default]
    Unobserved,
    /// The kernel may lack something that is desired.
    Unsettled(ForeignChains),
    /// The kernel holds everything that is desired as of the last plan.
    Settled(ForeignChains),
    /// The outcome of a plan is awaited.
    InFlight(ForeignChains, InFlight),
}

/// How much of the desired state was rendered, with the facts of the node as of the last plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Extent {
    /// No plan was made, so there is no desired state yet.
    #[default]
    Nothing,
    /// Only ports of the first stage; the next plan owes the rest.
    FirstStage(NodeFacts),
    /// All ports. There are no stages from here on: a dispatch chain holds the rules of every rendered port and may only
    /// be written together with their targets.
    Everything(NodeFacts),
}

/// What happens to a family's rules.
#[derive(Debug)]
pub(super) enum Event {
    Observed(ForeignChains),
    NothingToWrite(NodeFacts),
    Planned(NodeFacts, InFlight),
    /// Names the plan by its generation.
    Committed(u64),
    /// Likewise.
    Abandoned(u64),
}

/// The plan that an event ended, if any.
pub(super) type Ended = Option<InFlight>;

/// Both parts of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lifecycle {
    pub(super) phase: Phase,
    pub(super) extent: Extent,
}

impl Lifecycle {
    /// Takes the transition for an event. Without one, the state stays as it is.
    pub(super) fn step(&mut self, event: Event) -> Result<Ended, PlanError> {
        let rendered = match &event {
            Event::NothingToWrite(facts) => Some((facts.clone(), false)),
            Event::Planned(facts, plan) => Some((facts.clone(), plan.first_stage)),
            _ => None,
        };
        let (phase, result) = std::mem::take(&mut self.phase).next(event);
        self.phase = phase;
        if let Some((facts, first_stage)) = rendered.filter(|_| result.is_ok()) {
            self.extent = std::mem::take(&mut self.extent).next(facts, first_stage);
        }
        result
    }

    /// Takes the transition for an observation, which fits every phase.
    pub(super) fn observe(&mut self, foreign: ForeignChains) {
        _ = self.step(Event::Observed(foreign));
    }

    /// Returns the foreign chains for the next plan, or why none may be made.
    pub(super) const fn may_plan(&self) -> Result<&ForeignChains, PlanError> {
        match &self.phase {
            Phase::Unobserved => Err(PlanError::NotObserved),
            Phase::Unsettled(foreign) | Phase::Settled(foreign) => Ok(foreign),
            Phase::InFlight(..) => Err(PlanError::InFlight),
        }
    }

    /// Returns the foreign chains, unless they are unknown.
    pub(super) const fn foreign(&self) -> Option<&ForeignChains> {
        match &self.phase {
            Phase::Unobserved => None,
            Phase::Unsettled(foreign) | Phase::Settled(foreign) | Phase::InFlight(foreign, _) => Some(foreign),
        }
    }

    /// Returns whether the kernel holds everything that is desired as of the last plan.
    pub(super) const fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled(_))
    }

    /// Returns the facts of the node as of the last plan, if one was made.
    pub(super) const fn facts(&self) -> Option<&NodeFacts> {
        match &self.extent {
            Extent::Nothing => None,
            Extent::FirstStage(facts) | Extent::Everything(facts) => Some(facts),
        }
    }
}

impl Phase {
    fn next(self, event: Event) -> (Self, Result<Ended, PlanError>) {
        match (self, event) {
            (_, Event::Observed(foreign)) => (Self::Unsettled(foreign), Ok(None)),
            (Self::Unobserved, Event::NothingToWrite(_) | Event::Planned(..)) => {
                (Self::Unobserved, Err(PlanError::NotObserved))
            }
            (phase @ Self::InFlight(..), Event::NothingToWrite(_) | Event::Planned(..)) => {
                (phase, Err(PlanError::InFlight))
            }
            (Self::Unsettled(foreign) | Self::Settled(foreign), Event::NothingToWrite(_)) => {
                (Self::Settled(foreign), Ok(None))
            }
            (Self::Unsettled(foreign) | Self::Settled(foreign), Event::Planned(_, plan)) => {
                (Self::InFlight(foreign, plan), Ok(None))
            }
            (Self::InFlight(before, mut plan), Event::Committed(generation)) if plan.generation == generation => {
                let foreign = plan.foreign.take().unwrap_or(before);
                let next = if plan.first_stage { Self::Unsettled(foreign) } else { Self::Settled(foreign) };
                (next, Ok(Some(plan)))
            }
            (Self::InFlight(before, plan), Event::Abandoned(generation)) if plan.generation == generation => {
                // Inserting an entry jump twice would leave two, so the kernel must be observed first.
                let next = if plan.foreign.is_some() { Self::Unobserved } else { Self::Unsettled(before) };
                (next, Ok(Some(plan)))
            }
            (phase, Event::Committed(_) | Event::Abandoned(_)) => (phase, Err(PlanError::Stale)),
        }
    }
}

impl Extent {
    fn next(self, facts: NodeFacts, first_stage: bool) -> Self {
        match (self, first_stage) {
            (Self::Nothing | Self::FirstStage(_), true) => Self::FirstStage(facts),
            (Self::Everything(_), true) | (_, false) => Self::Everything(facts),
        }
    }
}

#[cfg(test)]
mod tests;
