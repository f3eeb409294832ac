//! Observations of the kernel's rules: text, or a reader that read them over netlink.

use ferrule_engine::nft::{ReadStep, Reader};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors;

/// The size of datagrams from which on the GIL is released; most hold only a few rules.
const LARGE: usize = 1 << 12;

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(module = "ferrule._engine")]
pub(crate) struct RuleReader(pub(crate) Reader);

#[pymethods]
impl RuleReader {
    #[getter]
    const fn family(&self) -> &'static str {
        self.0.family().name()
    }

    fn begin<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.begin())
    }

    #[pyo3(signature = (datagram, /))]
    fn feed<'py>(&mut self, py: Python<'py>, datagram: &[u8]) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let reader = &mut self.0;
        let step = if datagram.len() < LARGE { reader.feed(datagram) } else { py.detach(|| reader.feed(datagram)) };
        match step {
            Ok(ReadStep::Wait) => Ok(None),
            Ok(ReadStep::Ask(request)) => Ok(Some(PyBytes::new(py, &request))),
            Ok(ReadStep::Done) => Ok(Some(PyBytes::new(py, b""))),
            Err(error) => Err(errors::read(&error)),
        }
    }
}

/// An observation of either kind.
#[derive(FromPyObject)]
pub(crate) enum Seen<'py> {
    Text(Bound<'py, PyBytes>),
    Read(PyRefMut<'py, RuleReader>),
}
