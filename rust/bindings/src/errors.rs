//! Converts the engine's errors to Python exceptions, one class for each party at fault. See `_engine.pyi`.

use ferrule_engine::nft::{NotEncodable as EncodingError, ReadError};
use ferrule_engine::{InputError as EngineInputError, ListError, ObserveError, PlanError};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(_engine, InputError, PyValueError, "An option or a whole batch is invalid; nothing was changed.");

create_exception!(_engine, Misuse, PyRuntimeError, "The engine was called out of order.");
create_exception!(_engine, NotReady, Misuse, "Not every kind is listed, or the kernel was not observed.");
create_exception!(_engine, PlanInFlight, Misuse, "The previous plan was neither committed nor abandoned.");
create_exception!(_engine, StalePlan, Misuse, "The plan is not the one in flight, or its text was taken.");
create_exception!(_engine, NotRead, Misuse, "The reader has not read all rules of the family.");
create_exception!(_engine, NotBegun, Misuse, "No list of the kind has begun.");

create_exception!(_engine, UnusableRules, PyException, "What the kernel or its tool showed cannot be used.");
create_exception!(_engine, NotUnderstood, UnusableRules, "A rule has a form that only its own tool may know.");
create_exception!(_engine, RulesChanged, UnusableRules, "The rules changed while they were read.");
create_exception!(_engine, CutShort, UnusableRules, "The output of iptables-save is cut short.");

create_exception!(_engine, NotEncodable, PyRuntimeError, "A rule of ferrule's own cannot be encoded for netlink.");

/// Adds every exception to the module.
pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("InputError", py.get_type::<InputError>())?;
    m.add("Misuse", py.get_type::<Misuse>())?;
    m.add("NotReady", py.get_type::<NotReady>())?;
    m.add("PlanInFlight", py.get_type::<PlanInFlight>())?;
    m.add("StalePlan", py.get_type::<StalePlan>())?;
    m.add("NotRead", py.get_type::<NotRead>())?;
    m.add("NotBegun", py.get_type::<NotBegun>())?;
    m.add("UnusableRules", py.get_type::<UnusableRules>())?;
    m.add("NotUnderstood", py.get_type::<NotUnderstood>())?;
    m.add("RulesChanged", py.get_type::<RulesChanged>())?;
    m.add("CutShort", py.get_type::<CutShort>())?;
    m.add("NotEncodable", py.get_type::<NotEncodable>())
}

pub(crate) fn input(error: &EngineInputError) -> PyErr {
    InputError::new_err(error.to_string())
}

pub(crate) fn list(error: &ListError) -> PyErr {
    match error {
        ListError::Input(error) => input(error),
        ListError::NotBegun(_) => NotBegun::new_err(error.to_string()),
    }
}

pub(crate) fn observe(error: &ObserveError) -> PyErr {
    match error {
        ObserveError::Saved { .. } => CutShort::new_err(error.to_string()),
        ObserveError::NotRead => NotRead::new_err(error.to_string()),
    }
}

pub(crate) fn plan(error: &PlanError) -> PyErr {
    match error {
        PlanError::NotListed(_) | PlanError::NotObserved => NotReady::new_err(error.to_string()),
        PlanError::InFlight => PlanInFlight::new_err(error.to_string()),
        PlanError::Stale => StalePlan::new_err(error.to_string()),
    }
}

pub(crate) fn read(error: &ReadError) -> PyErr {
    match error {
        ReadError::Changed => RulesChanged::new_err(error.to_string()),
        ReadError::NotUnderstood(_) => NotUnderstood::new_err(error.to_string()),
        ReadError::Refused(errno) => PyOSError::new_err((*errno, error.to_string())),
    }
}

pub(crate) fn encoding(error: &EncodingError) -> PyErr {
    NotEncodable::new_err(error.to_string())
}

/// A plan's text was asked for a second time.
pub(crate) fn taken() -> PyErr {
    StalePlan::new_err("the plan's text was already taken")
}

/// An argument names something that does not exist.
pub(crate) fn unknown(what: &str, name: &str) -> PyErr {
    Misuse::new_err(format!("unknown {what} {name:?}"))
}
