//! Converts Rust errors into Python exceptions.

use ferrule_engine::{InputError as EngineInputError, PlanError};
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(_engine, InputError, PyValueError, "An option or a whole batch cannot be used; nothing was changed.");
create_exception!(_engine, NotReady, PyRuntimeError, "Not every kind is listed, or the kernel was not observed.");
create_exception!(_engine, StalePlan, PyRuntimeError, "The plan is not the one in flight.");
create_exception!(
    _engine,
    NotUnderstood,
    PyValueError,
    "The kernel holds rules that only the iptables tools may understand."
);
create_exception!(_engine, RulesChanged, PyRuntimeError, "The kernel's rules changed while they were read.");

pub(crate) fn input(error: &EngineInputError) -> PyErr {
    InputError::new_err(error.to_string())
}

pub(crate) fn plan(error: &PlanError) -> PyErr {
    match error {
        PlanError::NotListed(_) | PlanError::NotObserved => NotReady::new_err(error.to_string()),
        PlanError::InFlight | PlanError::Stale => StalePlan::new_err(error.to_string()),
    }
}

/// Returns the error for a plan whose text was already taken.
pub(crate) fn taken() -> PyErr {
    StalePlan::new_err("the plan's text was already taken")
}
