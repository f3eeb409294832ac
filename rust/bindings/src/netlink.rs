//! Netlink requests of the daemon: acknowledgements, the host's addresses, named counters.

use ferrule_engine::addresses::AddressDump as Dump;
use ferrule_engine::{counters, netlink};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<AddressDump>()?;
    m.add_function(wrap_pyfunction!(acknowledgements, m)?)?;
    m.add_function(wrap_pyfunction!(counter_creation, m)?)?;
    m.add_function(wrap_pyfunction!(counter_request, m)?)?;
    m.add_function(wrap_pyfunction!(counter_values, m)?)
}

#[pyfunction]
#[pyo3(signature = (datagram, /))]
fn acknowledgements<'py>(py: Python<'py>, datagram: &[u8]) -> PyResult<Bound<'py, PyList>> {
    let found: Vec<_> = netlink::acknowledgements(datagram).map(|a| (a.sequence, a.error.unwrap_or(0))).collect();
    PyList::new(py, found)
}

#[pyfunction]
#[pyo3(signature = (name, /))]
fn counter_creation<'py>(py: Python<'py>, name: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &counters::create(name))
}

#[pyfunction]
#[pyo3(signature = (name, /))]
fn counter_request<'py>(py: Python<'py>, name: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &counters::get(name))
}

#[pyfunction]
#[pyo3(signature = (answer, /))]
fn counter_values(answer: &[u8]) -> Option<(u64, u64)> {
    counters::count(answer).map(|count| (count.packets, count.bytes))
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(module = "ferrule._engine")]
#[derive(Default)]
struct AddressDump(Dump);

#[pymethods]
impl AddressDump {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    #[allow(clippy::unused_self)] // a conversation is an object to Python, its first request included
    fn request<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &Dump::request())
    }

    #[pyo3(signature = (datagram, /))]
    fn feed(&mut self, datagram: &[u8]) -> PyResult<bool> {
        let refused = |errno: i32| PyOSError::new_err((errno, format!("the kernel refused: errno {errno}")));
        self.0.feed(datagram).map_err(refused)
    }

    fn addresses(&self) -> Vec<String> {
        self.0.addresses().map(|ip| ip.to_string()).collect()
    }
}
