//! `ferrule._engine`: converts arguments and results, releases the GIL, and does nothing else. Here everything is
//! registered; each topic has a module.
//!
//! The interface is documented in `python/ferrule/_engine.pyi`, which `make lint` compares with what is here.

mod arguments;
mod conntrack;
mod constants;
mod engine;
mod errors;
mod netlink;
mod options;
mod plan;
mod readback;
mod removal;
mod values;

use pyo3::prelude::*;

#[pymodule]
fn _engine(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<options::EngineOptions>()?;
    m.add_class::<engine::Engine>()?;
    m.add_class::<values::IngestReport>()?;
    m.add_class::<plan::Plan>()?;
    m.add_class::<plan::PayloadPieces>()?;
    m.add_class::<plan::Transaction>()?;
    m.add_class::<plan::Transactions>()?;
    m.add_class::<values::DriftReport>()?;
    m.add_class::<values::Problem>()?;
    m.add_class::<values::ProblemChanges>()?;
    m.add_class::<values::HealthCheck>()?;
    m.add_class::<values::OwnNode>()?;
    m.add_class::<readback::RuleReader>()?;
    m.add_class::<conntrack::ConntrackView>()?;
    m.add_class::<conntrack::StaleFlows>()?;
    m.add_class::<values::FamilyFacts>()?;
    m.add_class::<removal::Removal>()?;
    errors::register(m)?;
    m.add("SERVICES_CHAIN", constants::SERVICES_CHAIN)?;
    m.add("CANARY_CHAIN", constants::CANARY_CHAIN)?;
    netlink::register(m)?;
    m.add_function(wrap_pyfunction!(removal::removals, m)?)?;
    m.add_function(wrap_pyfunction!(constants::build_info, m)?)
}
