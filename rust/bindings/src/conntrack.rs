//! Snapshots of UDP frontends, which find stale flows in dumps without the engine.

use std::sync::Arc;

use ferrule_engine::conntrack as engine;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct ConntrackView(pub(crate) Arc<engine::View>);

#[pymethods]
impl ConntrackView {
    #[getter]
    fn family(&self) -> &'static str {
        self.0.family().name()
    }

    #[getter]
    fn frontends(&self) -> usize {
        self.0.frontends()
    }

    #[pyo3(signature = (older, /))]
    fn inheriting(&self, py: Python<'_>, older: &Self) -> Self {
        Self(Arc::new(py.detach(|| self.0.inheriting(&older.0))))
    }

    #[pyo3(signature = (*, filtered))]
    fn dump_request<'py>(&self, py: Python<'py>, filtered: bool) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.dump_request(filtered))
    }

    #[pyo3(signature = (dump, /))]
    fn stale(&self, py: Python<'_>, dump: &[u8]) -> StaleFlows {
        StaleFlows(py.detach(|| self.0.stale(dump)))
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct StaleFlows(engine::StaleFlows);

#[pymethods]
impl StaleFlows {
    #[getter]
    fn deletes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.deletes)
    }

    #[getter]
    const fn count(&self) -> u32 {
        self.0.count
    }

    #[getter]
    const fn seen(&self) -> u32 {
        self.0.seen
    }

    #[getter]
    const fn done(&self) -> bool {
        self.0.done
    }

    #[getter]
    const fn interrupted(&self) -> bool {
        self.0.interrupted
    }

    #[getter]
    const fn error(&self) -> Option<i32> {
        self.0.error
    }
}
