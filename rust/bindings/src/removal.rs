//! Removal of ferrule's rules, computed from a save.

use ferrule_engine as engine;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::values::bytes;

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct Removal(engine::Removal);

#[pymethods]
impl Removal {
    #[getter]
    const fn table(&self) -> &'static str {
        self.0.table.name()
    }

    #[getter]
    const fn chains(&self) -> usize {
        self.0.chains
    }

    #[getter]
    const fn jumps(&self) -> usize {
        self.0.jumps
    }

    #[getter]
    fn held<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.held)
    }

    fn payload<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let text = py.detach(|| self.0.text.to_vec());
        bytes(py, &text)
    }
}

#[pyfunction]
#[pyo3(signature = (saved, /))]
pub(crate) fn removals(py: Python<'_>, saved: &[u8]) -> Vec<Removal> {
    py.detach(|| engine::removals(saved)).into_iter().map(Removal).collect()
}
