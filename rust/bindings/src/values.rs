//! Immutable values that are passed to Python.

use std::net::IpAddr;

use ferrule_engine::report as engine;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

/// Copies of this size and more let other threads run. Below, getting the GIL back may take longer than the copy.
const LARGE_COPY: usize = 1 << 16;

/// Returns a copy as a Python object.
pub(crate) fn bytes<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    if data.len() < LARGE_COPY {
        return Ok(PyBytes::new(py, data));
    }
    PyBytes::new_with(py, data.len(), |buffer| {
        py.detach(|| buffer.copy_from_slice(data));
        Ok(())
    })
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, get_all, module = "ferrule._engine")]
pub(crate) struct IngestReport {
    kind: &'static str,
    resource_version: String,
    applied: usize,
    changed: usize,
    rejected: usize,
    in_sync: bool,
    bookmark: bool,
    error_code: Option<u32>,
    malformed: Option<String>,
}

impl From<engine::IngestReport> for IngestReport {
    fn from(r: engine::IngestReport) -> Self {
        Self {
            kind: r.kind.name(),
            resource_version: r.resource_version,
            applied: r.applied,
            changed: r.changed,
            rejected: r.rejected,
            in_sync: r.in_sync,
            bookmark: r.bookmark,
            error_code: r.error_code,
            malformed: r.malformed,
        }
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct DriftReport(pub(crate) engine::DriftReport);

#[pymethods]
impl DriftReport {
    #[getter]
    fn differing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.differing)
    }

    #[getter]
    fn missing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.missing)
    }

    #[getter]
    fn stale<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.stale)
    }

    #[getter]
    fn held<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.held)
    }

    #[getter]
    fn entry_jumps_missing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.entry_jumps_missing)
    }

    #[getter]
    fn repaired(&self) -> usize {
        self.0.differing.len() + self.0.missing.len() + self.0.entry_jumps_missing.len()
    }

    #[pyo3(signature = (limit, /))]
    fn first_repaired<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyTuple>> {
        let all = self.0.differing.iter().chain(&self.0.missing).chain(&self.0.entry_jumps_missing);
        PyTuple::new(py, all.take(limit).collect::<Vec<_>>())
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, get_all, module = "ferrule._engine")]
pub(crate) struct Problem {
    kind: &'static str,
    object: String,
    field: String,
    value: String,
    reason: String,
}

impl From<ferrule_engine::Problem> for Problem {
    fn from(p: ferrule_engine::Problem) -> Self {
        Self {
            kind: p.kind.name(),
            object: p.object,
            field: p.field.into_owned(),
            value: p.value,
            reason: p.reason.into_owned(),
        }
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct ProblemChanges(pub(crate) ferrule_engine::ProblemChanges);

#[pymethods]
impl ProblemChanges {
    #[getter]
    fn appeared(&self) -> Vec<Problem> {
        self.0.appeared.iter().cloned().map(Into::into).collect()
    }

    #[getter]
    fn gone(&self) -> Vec<Problem> {
        self.0.gone.iter().cloned().map(Into::into).collect()
    }

    #[getter]
    const fn standing(&self) -> usize {
        self.0.standing
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, eq, module = "ferrule._engine")]
#[derive(PartialEq, Eq)]
pub(crate) struct OwnNode(pub(crate) ferrule_engine::OwnNode);

#[pymethods]
impl OwnNode {
    #[getter]
    fn node_ips<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, texts(&self.0.node_ips()))
    }

    #[getter]
    fn addresses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, texts(&self.0.addresses))
    }

    #[getter]
    fn pod_cidrs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.pod_cidrs())
    }

    #[getter]
    const fn eligible(&self) -> bool {
        self.0.eligible
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, get_all, module = "ferrule._engine")]
pub(crate) struct HealthCheck {
    namespace: String,
    name: String,
    family: &'static str,
    port: u16,
    local_endpoints: usize,
}

impl From<engine::HealthCheck> for HealthCheck {
    fn from(h: engine::HealthCheck) -> Self {
        Self {
            namespace: h.namespace,
            name: h.name,
            family: h.family.name(),
            port: h.port,
            local_endpoints: h.local_endpoints,
        }
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, get_all, module = "ferrule._engine")]
pub(crate) struct FamilyFacts {
    service_ports: usize,
    endpoints: usize,
    large_mode: bool,
    rules: (usize, usize, usize),
    no_local_internal: usize,
    no_local_external: usize,
    node_port_addresses: Option<usize>,
    held: Vec<(String, String)>,
}

impl From<engine::FamilyFacts> for FamilyFacts {
    fn from(f: engine::FamilyFacts) -> Self {
        let [filter, nat, mangle] = f.rules;
        Self {
            service_ports: f.service_ports,
            endpoints: f.endpoints,
            large_mode: f.large_mode,
            rules: (filter, nat, mangle),
            no_local_internal: f.no_local_internal,
            no_local_external: f.no_local_external,
            node_port_addresses: f.node_port_addresses,
            held: f.held,
        }
    }
}
