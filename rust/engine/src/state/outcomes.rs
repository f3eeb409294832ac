//! What becomes of plans: confirmed, of unknown outcome, or replaced by an observation of the kernel.

use crate::error::PlanError;
use crate::model::names::ChainId;
use crate::read::observed::Observed;
use crate::report::DriftReport;
use crate::state::delta::Drift;
use crate::state::family::FamilyState;
use crate::state::lifecycle::{Event, ForeignChains};
use crate::state::plan::Plan;

impl FamilyState {
    /// Takes a plan's chains for applied.
    pub(crate) fn commit(&mut self, plan: &Plan) -> Result<(), PlanError> {
        if let Some(done) = self.lifecycle.step(Event::Committed(plan.generation))? {
            self.delta.commit(&done.written, &done.deleted);
        }
        Ok(())
    }

    /// Takes the state of a plan's chains for unknown.
    pub(crate) fn abandon(&mut self, plan: &Plan) -> Result<(), PlanError> {
        if let Some(failed) = self.lifecycle.step(Event::Abandoned(plan.generation))? {
            self.delta.abandon(&failed.written, &failed.deleted);
            self.unconfirmed.extend(failed.ports);
            for part in failed.tree_chains {
                self.ports.dispatch_chains_mut().mark_dirty(part);
            }
        }
        Ok(())
    }

    /// Replaces the applied state by an observation.
    pub(crate) fn observe(&mut self, observed: Observed) -> DriftReport {
        if self.lifecycle.facts().is_none() {
            self.ports.dispatch_chains_mut().found_trees(observed.trees);
        }
        // Of an empty state and of unknown entry jumps, nothing can be missing.
        let expected_jumps = self.lifecycle.foreign().is_some() && !self.delta.nothing_applied();
        let drift = self.delta.observe(observed.chains, observed.held);
        let foreign = ForeignChains { entry_jumps: observed.entry_jumps, firewall_exists: observed.firewall_exists };
        self.lifecycle.observe(foreign);
        self.unconfirmed.extend(self.ports.differing(&self.delta).cloned());
        self.ports.dispatch_chains_mut().mark_dirty_where(|id| self.delta.differs(id));
        self.report(drift, expected_jumps)
    }

    fn report(&self, drift: Drift, expected_jumps: bool) -> DriftReport {
        let mut report = DriftReport::default();
        // Before the first plan there is no desired state, so no chain is stale.
        let Some(facts) = self.lifecycle.facts() else { return report };
        let names = |chains: &mut dyn Iterator<Item = ChainId>| {
            let mut names: Vec<String> = chains.map(|c| c.to_string()).collect();
            names.sort_unstable();
            names
        };
        let stale = self.delta.stale();
        report.stale = names(&mut stale.iter().copied().filter(|&c| !self.delta.is_held(c)));
        report.held = names(&mut stale.iter().copied().filter(|&c| self.delta.is_held(c)));
        report.differing = names(&mut drift.differing.into_iter());
        report.missing = names(&mut drift.missing.into_iter());
        if expected_jumps {
            report.entry_jumps_missing = self.missing(facts).iter().map(|jump| self.describe(jump)).collect();
        }
        report
    }
}
