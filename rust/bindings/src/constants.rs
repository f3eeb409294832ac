//! Facts that are the same for every engine of this build.

use ferrule_engine::FixedChain;
use pyo3::prelude::*;
use pyo3::types::PyDict;

pub(crate) const SERVICES_CHAIN: &str = FixedChain::NatServices.name();
pub(crate) const CANARY_CHAIN: &str = FixedChain::NatCanary.name();

#[pyfunction]
pub(crate) fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", env!("FERRULE_PROFILE"))?;
    info.set_item("target", env!("FERRULE_TARGET"))?;
    info.set_item("rustc", env!("FERRULE_RUSTC"))?;
    Ok(info)
}
