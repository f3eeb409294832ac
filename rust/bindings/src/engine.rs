//! The engine's façade. Every call whose work grows with the cluster releases the GIL for it.

use ferrule_engine::{Engine as Core, Family, Kind, WriteStrategy};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arguments::{family_of, kind_of};
use crate::conntrack::ConntrackView;
use crate::errors;
use crate::options::EngineOptions;
use crate::plan::Plan;
use crate::readback::{RuleReader, Seen};
use crate::values::{DriftReport, FamilyFacts, HealthCheck, IngestReport, OwnNode, Problem, ProblemChanges};

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(module = "ferrule._engine")]
pub(crate) struct Engine(Core);

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (options, /))]
    fn new(options: &EngineOptions) -> Self {
        Self(Core::new(options.0.clone()))
    }

    #[pyo3(signature = (kind, pages, /))]
    #[allow(clippy::needless_pass_by_value)] // owned references keep the bytes alive while the GIL is released
    fn replace(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = kind_of)] kind: Kind,
        pages: Vec<Bound<'_, PyBytes>>,
    ) -> PyResult<IngestReport> {
        let pages: Vec<&[u8]> = pages.iter().map(PyBytesMethods::as_bytes).collect();
        let core = &mut self.0;
        py.detach(|| core.replace(kind, &pages)).map(Into::into).map_err(|e| errors::input(&e))
    }

    #[pyo3(signature = (kind, /))]
    fn begin_list(&mut self, py: Python<'_>, #[pyo3(from_py_with = kind_of)] kind: Kind) {
        let core = &mut self.0;
        py.detach(|| core.begin_list(kind));
    }

    #[pyo3(signature = (kind, chunk, /))]
    fn feed_list(&mut self, py: Python<'_>, #[pyo3(from_py_with = kind_of)] kind: Kind, chunk: &[u8]) -> PyResult<()> {
        let core = &mut self.0;
        py.detach(|| core.feed_list(kind, chunk)).map_err(|e| errors::list(&e))
    }

    #[pyo3(signature = (kind, /))]
    fn end_list(&mut self, py: Python<'_>, #[pyo3(from_py_with = kind_of)] kind: Kind) -> PyResult<IngestReport> {
        let core = &mut self.0;
        py.detach(|| core.end_list(kind)).map(Into::into).map_err(|e| errors::list(&e))
    }

    #[pyo3(signature = (kind, /))]
    fn abort_list(&mut self, py: Python<'_>, #[pyo3(from_py_with = kind_of)] kind: Kind) {
        let core = &mut self.0;
        py.detach(|| core.abort_list(kind));
    }

    fn take_change_triggers(&mut self) -> Vec<String> {
        self.0.take_change_triggers().into_iter().map(String::from).collect()
    }

    fn counts(&self) -> (usize, usize) {
        self.0.counts()
    }

    #[pyo3(signature = (family, /))]
    fn facts(&self, #[pyo3(from_py_with = family_of)] family: Family) -> FamilyFacts {
        self.0.facts(family).into()
    }

    #[pyo3(signature = (kind, frames, /))]
    fn ingest(&mut self, py: Python<'_>, #[pyo3(from_py_with = kind_of)] kind: Kind, frames: &[u8]) -> IngestReport {
        let core = &mut self.0;
        py.detach(|| core.ingest(kind, frames)).into()
    }

    #[pyo3(signature = (addresses, /))]
    #[allow(clippy::needless_pass_by_value)] // what a Python sequence converts to
    fn set_local_addresses(&mut self, addresses: Vec<String>) -> PyResult<bool> {
        self.0.set_local_addresses(&addresses).map_err(|e| errors::input(&e))
    }

    #[pyo3(signature = (family, /, *, netlink=false))]
    fn plan(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = family_of)] family: Family,
        netlink: bool,
    ) -> PyResult<Option<Plan>> {
        let core = &mut self.0;
        py.detach(|| if netlink { core.plan_for(family, WriteStrategy::Netlink) } else { core.plan(family) })
            .map(|plan| plan.map(Into::into))
            .map_err(|e| errors::plan(&e))
    }

    #[pyo3(signature = (plan, /))]
    fn commit(&mut self, py: Python<'_>, plan: &Plan) -> PyResult<()> {
        let (core, plan) = (&mut self.0, &plan.core);
        py.detach(|| core.commit(plan)).map_err(|e| errors::plan(&e))
    }

    #[pyo3(signature = (plan, /))]
    fn abandon(&mut self, py: Python<'_>, plan: &Plan) -> PyResult<()> {
        let (core, plan) = (&mut self.0, &plan.core);
        py.detach(|| core.abandon(plan)).map_err(|e| errors::plan(&e))
    }

    #[pyo3(signature = (family, seen, /))]
    fn observe(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = family_of)] family: Family,
        seen: Seen<'_>,
    ) -> PyResult<DriftReport> {
        let core = &mut self.0;
        let report = match seen {
            Seen::Text(saved) => {
                let saved = saved.as_bytes();
                py.detach(|| core.observe(family, saved))
            }
            Seen::Read(mut reader) => {
                let reader = &mut reader.0;
                py.detach(|| core.observe_read(family, reader))
            }
        };
        report.map(DriftReport).map_err(|e| errors::observe(&e))
    }

    #[pyo3(signature = (family, /))]
    fn rule_reader(&self, #[pyo3(from_py_with = family_of)] family: Family) -> RuleReader {
        RuleReader(self.0.rule_reader(family))
    }

    #[pyo3(signature = (family, /))]
    fn conntrack_view(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = family_of)] family: Family,
    ) -> Option<ConntrackView> {
        let core = &mut self.0;
        py.detach(|| core.conntrack_view(family)).map(ConntrackView)
    }

    fn problems(&self, py: Python<'_>) -> Vec<Problem> {
        py.detach(|| self.0.problems().into_iter().map(Into::into).collect())
    }

    fn take_problem_changes(&mut self, py: Python<'_>) -> ProblemChanges {
        let core = &mut self.0;
        ProblemChanges(py.detach(|| core.take_problem_changes()))
    }

    fn health_checks(&self, py: Python<'_>) -> Vec<HealthCheck> {
        py.detach(|| self.0.health_checks().into_iter().map(Into::into).collect())
    }

    fn own_node(&self) -> Option<OwnNode> {
        self.0.own_node().cloned().map(OwnNode)
    }

    fn localhost_node_ports(&self) -> bool {
        self.0.localhost_node_ports()
    }

    fn snapshot<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let text = py.detach(|| self.0.snapshot());
        PyBytes::new(py, text.as_bytes())
    }
}
