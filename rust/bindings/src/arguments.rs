//! Names of kinds and families, as arguments of a call.

use ferrule_engine::{Family, Kind};
use pyo3::prelude::*;

use crate::errors;

pub(crate) fn kind_of(name: &Bound<'_, PyAny>) -> PyResult<Kind> {
    let name: &str = name.extract()?;
    Kind::parse(name).ok_or_else(|| errors::unknown("kind", name))
}

pub(crate) fn family_of(name: &Bound<'_, PyAny>) -> PyResult<Family> {
    let name: &str = name.extract()?;
    let found = Family::ALL.into_iter().find(|family| family.name() == name);
    found.ok_or_else(|| errors::unknown("family", name))
}
