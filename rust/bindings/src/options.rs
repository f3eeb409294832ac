//! The engine's options, from keyword arguments.

use ferrule_engine::{Options, WriteStrategy};
use pyo3::prelude::*;

use crate::errors;

/// The Python class of this name, documented in `_engine.pyi`.
#[pyclass(frozen, module = "ferrule._engine")]
pub(crate) struct EngineOptions(pub(crate) Options);

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
