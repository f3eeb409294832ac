//! The object store: the cluster's objects by key, and the Services that changed since each family last took the
//! changes.
//!
//! Ingest takes time proportional to the message: it decodes, compares, replaces and marks objects dirty. It renders no
//! rules.

mod lists;
mod objects;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::input::node::{Node, OwnNode};
use crate::input::problem::Problem;
use crate::input::service::Service;
use crate::input::standing_problems::{ProblemChanges, StandingProblems};
use crate::input::wire::Kind;
use crate::model::address::Family;
use crate::model::endpoints::Slice;
use crate::report::{HealthCheck, IngestReport};
use lists::Arriving;

/// The changes since a family last took them. Each family drains its own set.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// Keys (`ns/name`) of Services whose object or endpoints changed.
    pub(crate) services: BTreeSet<Arc<str>>,
    /// Something changed that the rules of every Service may depend on.
    pub(crate) everything: bool,
}

/// The cluster's objects, reduced to what rules depend on.
#[derive(Debug)]
pub(crate) struct Store {
    node_name: Box<str>,
    /// Whether `spec.externalIPs` is honoured.
    external_ips: bool,
    services: HashMap<Arc<str>, Arc<Service>>,
    /// Services with a healthCheckNodePort: few, and read after every sync.
    health_checked: BTreeSet<Arc<str>>,
    slices: HashMap<Arc<str>, Slice>,
    /// Slices of each Service, ordered by name, which breaks ties.
    slices_of: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The node's own Node object, while there is one.
    node: Option<OwnNode>,
    /// The parts of it that rules depend on.
    node_rules: Node,
    listed: [bool; 3],
    /// By kind and key. Items without a name share the empty key of their kind, until the next list.
    problems: StandingProblems<(Kind, Arc<str>)>,
    dirty: [Dirty; 2],
    /// Lists that are being received.
    arriving: [Option<Arriving>; 3],
    triggers: Vec<Box<str>>,
}

impl Store {
    pub(crate) fn new(node_name: &str, external_ips: bool) -> Self {
        Self {
            node_name: node_name.into(),
            external_ips,
            services: HashMap::new(),
            health_checked: BTreeSet::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            node: None,
            node_rules: Node::default(),
            listed: [false; 3],
            problems: StandingProblems::default(),
            dirty: Default::default(),
            arriving: Default::default(),
            triggers: Vec::new(),
        }
    }

    /// Returns the first kind that is not listed yet.
    pub(crate) fn missing(&self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|&k| !self.listed[k as usize])
    }

    pub(crate) fn is_listed(&self, kind: Kind) -> bool {
        self.listed[kind as usize]
    }

    /// Returns what rules depend on of the node's own Node.
    pub(crate) const fn node(&self) -> &Node {
        &self.node_rules
    }

    /// Returns the node's own Node object, if there is one.
    pub(crate) const fn own_node(&self) -> Option<&OwnNode> {
        self.node.as_ref()
    }

    pub(crate) fn service(&self, key: &str) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    pub(crate) fn service_keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.keys()
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.slices.len())
    }

    /// Returns a Service's slices, ordered by name.
    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &Slice> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// Takes the changes of a family since the last call.
    pub(crate) fn take_dirty(&mut self, family: Family) -> Dirty {
        std::mem::take(&mut self.dirty[family.index()])
    }

    /// Marks every Service dirty, for changes that the rules of any Service may depend on.
    pub(crate) fn touch_everything(&mut self) {
        self.dirty.iter_mut().for_each(|d| d.everything = true);
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// Adds what changed of the problems since the last call.
    pub(crate) fn take_problem_changes(&mut self, changes: &mut ProblemChanges) {
        self.problems.take_changes(changes);
    }

    /// Returns every healthCheckNodePort with the number of distinct local ready addresses: one entry for each family
    /// that the Service has a cluster IP in, by Service name.
    ///
    /// The families are apart because traffic is: a node with IPv4 endpoints alone drops the Service's IPv6 traffic.
    pub(crate) fn health_checks(&self) -> Vec<HealthCheck> {
        let both = |key| Family::ALL.into_iter().map(move |family| (key, family));
        self.health_checked.iter().flat_map(both).filter_map(|(key, family)| self.health_check(key, family)).collect()
    }

    fn health_check(&self, key: &str, family: Family) -> Option<HealthCheck> {
        let service = self.services.get(key)?;
        let port = service.health_check_port.filter(|_| service.cluster_ips[family.index()].is_some())?;
        let (namespace, name) = key.split_once('/')?;
        let slices = self.slices_of(key).filter(|slice| slice.family == family);
        let local: BTreeSet<_> = slices.flat_map(Slice::local_ready).collect();
        Some(HealthCheck {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            family,
            port,
            local_endpoints: local.len(),
        })
    }

    fn report(&self, kind: Kind) -> IngestReport {
        IngestReport {
            kind,
            resource_version: String::new(),
            applied: 0,
            changed: 0,
            rejected: 0,
            in_sync: self.is_listed(kind),
            bookmark: false,
            error_code: None,
            malformed: None,
        }
    }
}
