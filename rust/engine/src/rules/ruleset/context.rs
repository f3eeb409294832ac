//! The input and the output of the rule generators.

use std::net::IpAddr;

use crate::input::service::{Service, ServicePort};
use crate::model::address::{Family, Net};
use crate::model::claims::Claims;
use crate::model::names::{ChainId, NameHash, PortName, Prefix};
use crate::model::topology::Policies;
use crate::options::Options;
use crate::rules::rule::Rule;
use crate::rules::ruleset::node_facts::NodeFacts;

/// Receives finished chains.
pub(crate) trait Sink {
    /// Receives one complete chain; the slice is valid only during the call. Chains of a balancing tree come before
    /// those that jump to them.
    fn chain(&mut self, id: ChainId, rules: &[Rule]);
}

/// The input of the rule generators, apart from the service port.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) family: Family,
    pub(crate) options: &'a Options,
    pub(crate) facts: &'a NodeFacts,
    pub(crate) claims: &'a Claims,
    /// Large mode (more than a thousand endpoints): rules of endpoints carry no comments.
    pub(crate) large: bool,
}

/// One service port with the data that its rules depend on.
#[derive(Clone, Copy)]
pub(crate) struct PortView<'a> {
    pub(crate) name: &'a PortName,
    pub(crate) hash: NameHash,
    pub(crate) service: &'a Service,
    pub(crate) port: &'a ServicePort,
    pub(crate) cluster_ip: IpAddr,
    pub(crate) policies: Policies,
}

impl<'a> PortView<'a> {
    pub(crate) fn new(family: Family, name: &'a PortName, service: &'a Service, port: &'a ServicePort) -> Option<Self> {
        let cluster_ip = service.cluster_ips[family.index()]?;
        let policies = Policies {
            internal_local: service.internal_local,
            external_local: service.external_local,
            externally_accessible: service.externally_accessible(family, port),
        };
        Some(Self { name, hash: name.hash(), service, port, cluster_ip, policies })
    }

    pub(super) fn chain(&self, prefix: Prefix) -> ChainId {
        ChainId::Hashed(prefix, self.hash)
    }

    /// Returns the chain for traffic to the cluster IP.
    pub(super) fn internal_chain(&self) -> ChainId {
        self.chain(if self.policies.internal_local { Prefix::Svl } else { Prefix::Svc })
    }

    /// Returns the chain for traffic from outside the cluster.
    pub(super) fn external_chain(&self) -> ChainId {
        self.chain(if self.policies.external_local { Prefix::Svl } else { Prefix::Svc })
    }

    /// Returns the source ranges of load-balancer IPs, if any apply; traffic then goes through the FW chain.
    pub(super) fn firewall(&self, family: Family) -> Option<Vec<Net>> {
        self.service.load_balancer_ips_of(family).next()?;
        self.service.source_ranges.of(family)
    }
}
