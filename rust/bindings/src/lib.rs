//! `ferrule._engine`: converts arguments and results, releases the GIL, and does nothing else.
//!
//! The interface is documented in `python/ferrule/_engine.pyi`, which `make lint` compares with what is here.

mod conntrack;
mod errors;
mod netlink;
mod plan;
mod readback;
mod removal;
mod values;

use conntrack::{ConntrackView, StaleFlows};
use ferrule_engine::Family;
use ferrule_engine::Kind;
use ferrule_engine::{Engine as Core, FixedChain, Options, WriteStrategy};
use plan::{PayloadPieces, Plan, Transaction, Transactions};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use readback::{RuleReader, Seen};
use removal::Removal;
use values::{DriftReport, FamilyFacts, HealthCheck, IngestReport, Problem, ProblemChanges};

/// See `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
struct EngineOptions(Options);

#[pymethods]
impl EngineOptions {
    #[new]
    #[pyo3(signature = (*, node_name, node_ips=vec![], masquerade_all=false, masquerade_bit=14, masquerade_random_fully=true,
        localhost_node_ports=true, conntrack_tcp_be_liberal=false, nfacct_invalid_dropped=false,
        nfacct_localhost_accepted=false, node_port_addresses=vec![], local_detector="None", cluster_cidrs=vec![],
        local_interface="", external_ips=true, ordered_blocks=false, dispatch="auto", balance="auto",
        first_services=vec![], digest_key=[0; 16]))]
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools, clippy::needless_pass_by_value)] // keyword arguments of a Python constructor
    fn new(
        node_name: &str,
        node_ips: Vec<String>,
        masquerade_all: bool,
        masquerade_bit: u32,
        masquerade_random_fully: bool,
        localhost_node_ports: bool,
        conntrack_tcp_be_liberal: bool,
        nfacct_invalid_dropped: bool,
        nfacct_localhost_accepted: bool,
        node_port_addresses: Vec<String>,
        local_detector: &str,
        cluster_cidrs: Vec<String>,
        local_interface: &str,
        external_ips: bool,
        ordered_blocks: bool,
        dispatch: &str,
        balance: &str,
        first_services: Vec<String>,
        digest_key: [u8; 16],
    ) -> PyResult<Self> {
        let mut options = Options::new(node_name);
        options.masquerade_all = masquerade_all;
        options.masquerade_random_fully = masquerade_random_fully;
        options.localhost_node_ports = localhost_node_ports;
        options.conntrack_tcp_be_liberal = conntrack_tcp_be_liberal;
        options.nfacct_invalid_dropped = nfacct_invalid_dropped;
        options.nfacct_localhost_accepted = nfacct_localhost_accepted;
        options.write_strategy = if ordered_blocks { WriteStrategy::OrderedBlocks } else { WriteStrategy::OneBlock };
        options.external_ips = external_ips;
        options.digest_key = digest_key;
        options
            .set_node_ips(&node_ips)
            .and_then(|()| options.set_masquerade_bit(masquerade_bit))
            .and_then(|()| options.set_node_port_addresses(&node_port_addresses))
            .and_then(|()| options.set_dispatch(dispatch))
            .and_then(|()| options.set_balance(balance))
            .and_then(|()| options.set_first_services(&first_services))
            .and_then(|()| options.set_local_detector(local_detector, &cluster_cidrs, local_interface))
            .map_err(|e| errors::input(&e))?;
        Ok(Self(options))
    }
}

/// See `_engine.pyi`.
#[pyclass(module = "ferrule._engine")]
struct Engine(Core);

fn kind(name: &str) -> PyResult<Kind> {
    Kind::parse(name).ok_or_else(|| errors::unknown("kind", name))
}

fn family(name: &str) -> PyResult<Family> {
    let found = Family::ALL.into_iter().find(|f| f.name() == name);
    found.ok_or_else(|| errors::unknown("family", name))
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (options, /))]
    fn new(options: &EngineOptions) -> Self {
        Self(Core::new(options.0.clone()))
    }

    #[pyo3(signature = (kind, pages, /))]
    #[allow(clippy::needless_pass_by_value)] // owned references keep the bytes alive while the GIL is released
    fn replace(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = crate::kind_of)] kind: Kind,
        pages: Vec<Bound<'_, PyBytes>>,
    ) -> PyResult<IngestReport> {
        let pages: Vec<&[u8]> = pages.iter().map(PyBytesMethods::as_bytes).collect();
        let core = &mut self.0;
        py.detach(|| core.replace(kind, &pages)).map(Into::into).map_err(|e| errors::input(&e))
    }

    #[pyo3(signature = (kind, /))]
    fn begin_list(&mut self, py: Python<'_>, #[pyo3(from_py_with = crate::kind_of)] kind: Kind) {
        let core = &mut self.0;
        py.detach(|| core.begin_list(kind));
    }

    #[pyo3(signature = (kind, chunk, /))]
    fn feed_list(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = crate::kind_of)] kind: Kind,
        chunk: &[u8],
    ) -> PyResult<()> {
        let core = &mut self.0;
        py.detach(|| core.feed_list(kind, chunk)).map_err(|e| errors::list(&e))
    }

    #[pyo3(signature = (kind, /))]
    fn end_list(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = crate::kind_of)] kind: Kind,
    ) -> PyResult<IngestReport> {
        let core = &mut self.0;
        py.detach(|| core.end_list(kind)).map(Into::into).map_err(|e| errors::list(&e))
    }

    #[pyo3(signature = (kind, /))]
    fn abort_list(&mut self, py: Python<'_>, #[pyo3(from_py_with = crate::kind_of)] kind: Kind) {
        let core = &mut self.0;
        py.detach(|| core.abort_list(kind));
    }

    fn take_change_triggers(&mut self) -> Vec<String> {
        self.0.take_change_triggers().into_iter().map(String::from).collect()
    }

    fn counts(&self) -> (usize, usize) {
        self.0.counts()
    }

    #[pyo3(signature = (family, /))]
    fn facts(&self, #[pyo3(from_py_with = crate::family_of)] family: Family) -> FamilyFacts {
        self.0.facts(family).into()
    }

    #[pyo3(signature = (kind, frames, /))]
    fn ingest(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = crate::kind_of)] kind: Kind,
        frames: &[u8],
    ) -> IngestReport {
        let core = &mut self.0;
        py.detach(|| core.ingest(kind, frames)).into()
    }

    #[pyo3(signature = (addresses, /))]
    #[allow(clippy::needless_pass_by_value)] // what a Python sequence converts to
    fn set_local_addresses(&mut self, addresses: Vec<String>) -> PyResult<bool> {
        self.0.set_local_addresses(&addresses).map_err(|e| errors::input(&e))
    }

    #[pyo3(signature = (family, /, *, netlink=false))]
    fn plan(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = crate::family_of)] family: Family,
        netlink: bool,
    ) -> PyResult<Option<Plan>> {
        let core = &mut self.0;
        py.detach(|| if netlink { core.plan_for(family, WriteStrategy::Netlink) } else { core.plan(family) })
            .map(|plan| plan.map(Into::into))
            .map_err(|e| errors::plan(&e))
    }

    #[pyo3(signature = (plan, /))]
    fn commit(&mut self, py: Python<'_>, plan: &Plan) -> PyResult<()> {
        let (core, plan) = (&mut self.0, &plan.core);
        py.detach(|| core.commit(plan)).map_err(|e| errors::plan(&e))
    }

    #[pyo3(signature = (plan, /))]
    fn abandon(&mut self, py: Python<'_>, plan: &Plan) -> PyResult<()> {
        let (core, plan) = (&mut self.0, &plan.core);
        py.detach(|| core.abandon(plan)).map_err(|e| errors::plan(&e))
    }

    #[pyo3(signature = (family, seen, /))]
    fn observe(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = crate::family_of)] family: Family,
        seen: Seen<'_>,
    ) -> PyResult<DriftReport> {
        let core = &mut self.0;
        let report = match seen {
            Seen::Text(saved) => {
                let saved = saved.as_bytes();
                py.detach(|| core.observe(family, saved))
            }
            Seen::Read(mut reader) => {
                let reader = &mut reader.0;
                py.detach(|| core.observe_read(family, reader))
            }
        };
        report.map(DriftReport).map_err(|e| errors::observe(&e))
    }

    #[pyo3(signature = (family, /))]
    fn rule_reader(&self, #[pyo3(from_py_with = crate::family_of)] family: Family) -> RuleReader {
        RuleReader(self.0.rule_reader(family))
    }

    #[pyo3(signature = (family, /))]
    fn conntrack_view(
        &mut self,
        py: Python<'_>,
        #[pyo3(from_py_with = crate::family_of)] family: Family,
    ) -> Option<ConntrackView> {
        let core = &mut self.0;
        py.detach(|| core.conntrack_view(family)).map(ConntrackView)
    }

    fn problems(&self, py: Python<'_>) -> Vec<Problem> {
        py.detach(|| self.0.problems().into_iter().map(Into::into).collect())
    }

    fn take_problem_changes(&mut self, py: Python<'_>) -> ProblemChanges {
        let core = &mut self.0;
        ProblemChanges(py.detach(|| core.take_problem_changes()))
    }

    fn health_checks(&self, py: Python<'_>) -> Vec<HealthCheck> {
        py.detach(|| self.0.health_checks().into_iter().map(Into::into).collect())
    }

    fn localhost_node_ports(&self) -> bool {
        self.0.localhost_node_ports()
    }

    fn snapshot<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let text = py.detach(|| self.0.snapshot());
        PyBytes::new(py, text.as_bytes())
    }
}

fn kind_of(name: &Bound<'_, PyAny>) -> PyResult<Kind> {
    kind(name.extract()?)
}

fn family_of(name: &Bound<'_, PyAny>) -> PyResult<Family> {
    family(name.extract()?)
}

#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", env!("FERRULE_PROFILE"))?;
    info.set_item("target", env!("FERRULE_TARGET"))?;
    info.set_item("rustc", env!("FERRULE_RUSTC"))?;
    Ok(info)
}

#[pymodule]
fn _engine(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<EngineOptions>()?;
    m.add_class::<Engine>()?;
    m.add_class::<IngestReport>()?;
    m.add_class::<Plan>()?;
    m.add_class::<PayloadPieces>()?;
    m.add_class::<Transaction>()?;
    m.add_class::<Transactions>()?;
    m.add_class::<DriftReport>()?;
    m.add_class::<Problem>()?;
    m.add_class::<ProblemChanges>()?;
    m.add_class::<HealthCheck>()?;
    m.add_class::<RuleReader>()?;
    m.add_class::<ConntrackView>()?;
    m.add_class::<StaleFlows>()?;
    m.add_class::<FamilyFacts>()?;
    m.add_class::<Removal>()?;
    errors::register(m)?;
    m.add("SERVICES_CHAIN", FixedChain::NatServices.name())?;
    m.add("CANARY_CHAIN", FixedChain::NatCanary.name())?;
    netlink::register(m)?;
    m.add_function(wrap_pyfunction!(removal::removals, m)?)?;
    m.add_function(wrap_pyfunction!(build_info, m)?)
}
