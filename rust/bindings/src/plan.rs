//! Plans, whose text can be taken piece by piece.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrule_engine::Family;
use ferrule_engine::restore_text::{Pieces, RestoreText};
use ferrule_engine::{WriteStrategy, nft};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::errors;
use crate::values::bytes;

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct Plan {
    /// The plan without its text.
    pub(crate) core: ferrule_engine::Plan,
    /// `None` once the text was taken.
    text: Mutex<Option<RestoreText>>,
    payload_size: usize,
    strategy: String,
    phases: Vec<Phase>,
    blocks: usize,
}

/// Name with table, and numbers of blocks, chains, rules, bytes.
type Phase = (String, usize, usize, usize, usize);

impl From<ferrule_engine::Plan> for Plan {
    fn from(mut core: ferrule_engine::Plan) -> Self {
        let text = std::mem::take(&mut core.text);
        let phases = text.phases().iter();
        Self {
            core,
            payload_size: text.len(),
            strategy: text.strategy.to_string(),
            phases: phases
                .map(|p| (format!("{} {}", p.table.name(), p.name), p.blocks, p.chains, p.rules, p.bytes))
                .collect(),
            blocks: text.blocks(),
            text: Mutex::new(Some(text)),
        }
    }
}

impl Plan {
    fn text(&self) -> MutexGuard<'_, Option<RestoreText>> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Plan {
    #[getter]
    const fn family(&self) -> &'static str {
        self.core.family.name()
    }

    #[getter]
    const fn generation(&self) -> u64 {
        self.core.generation
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        // The lock is taken without the GIL: a thread that waits for it must not keep its holder from the GIL.
        let text = py.detach(|| self.text().as_ref().map(RestoreText::to_vec));
        bytes(py, &text.ok_or_else(errors::taken)?)
    }

    fn take_payload(&self, py: Python<'_>) -> PyResult<PayloadPieces> {
        let text = py.detach(|| self.text().take());
        Ok(PayloadPieces(Mutex::new(text.ok_or_else(errors::taken)?.pieces())))
    }

    fn take_transactions(&self, py: Python<'_>) -> PyResult<Transactions> {
        let text = py.detach(|| self.text().take());
        let transactions = nft::Transactions::new(self.core.family, text.ok_or_else(errors::taken)?);
        Ok(Transactions(Mutex::new(transactions), self.core.family))
    }

    #[getter]
    fn netlink(&self) -> bool {
        self.core.write_strategy == WriteStrategy::Netlink
    }

    #[getter]
    const fn payload_size(&self) -> usize {
        self.payload_size
    }

    #[getter]
    fn chains_written<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let names = py.detach(|| self.core.chains_written());
        PyTuple::new(py, names)
    }

    #[getter]
    fn chains_deleted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let names = py.detach(|| self.core.chains_deleted());
        PyTuple::new(py, names)
    }

    #[getter]
    fn written_count(&self) -> usize {
        self.core.written.len()
    }

    #[getter]
    fn deleted_count(&self) -> usize {
        self.core.deleted.len()
    }

    #[getter]
    fn entry_jumps_inserted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.core.entry_jumps_inserted)
    }

    #[getter]
    const fn rules_written(&self) -> usize {
        self.core.rules_written
    }

    #[getter]
    const fn rules_by_table(&self) -> (usize, usize, usize) {
        let [filter, nat, mangle] = self.core.rules_by_table;
        (filter, nat, mangle)
    }

    #[getter]
    const fn blocks(&self) -> usize {
        self.blocks
    }

    #[getter]
    fn strategy(&self) -> &str {
        &self.strategy
    }

    #[getter]
    fn phases<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.phases.iter().cloned())
    }

    #[getter]
    const fn full(&self) -> bool {
        self.core.full
    }

    #[getter]
    const fn more(&self) -> bool {
        self.core.more
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct PayloadPieces(Mutex<Pieces>);

#[pymethods]
impl PayloadPieces {
    const fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let piece = py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).next());
        piece.map(|piece| bytes(py, &piece)).transpose()
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct Transactions(Mutex<nft::Transactions>, Family);

#[pymethods]
impl Transactions {
    const fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Transaction>> {
        let next = py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).next());
        let next = next.transpose().map_err(|error| errors::encoding(&error))?;
        Ok(next.map(|core| Transaction { core, family: self.1 }))
    }
}

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct Transaction {
    core: nft::Transaction,
    family: Family,
}

#[pymethods]
impl Transaction {
    fn payload<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        bytes(py, &self.core.bytes)
    }

    #[getter]
    const fn last(&self) -> u32 {
        self.core.last
    }

    #[pyo3(signature = (sequence, /))]
    fn describe(&self, sequence: u32) -> Option<String> {
        self.core.describe(self.family, sequence)
    }
}
