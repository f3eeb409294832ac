//! Objects by key: what the cluster looks like, and which Services are touched since somebody last looked.
//!
//! Ingest is O(message): it decodes, compares, replaces and marks; nothing here renders a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::value::RawValue;

use crate::address::Family;
use crate::endpoints::Slice;
use crate::error::InputError;
use crate::node::Node;
use crate::problem::{Problem, Problems};
use crate::report::{HealthCheck, IngestReport};
use crate::services::Service;
use crate::wire::{self, FrameType, Kind, NodeWire, Rejection, ServiceWire, SliceWire};

/// What changed since a family last asked. Each family drains its own.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// Keys (`ns/name`) of Services whose object or endpoints changed.
    pub(crate) services: BTreeSet<Arc<str>>,
    /// Something that every Service's rules may depend on changed.
    pub(crate) everything: bool,
}

/// The cluster, reduced to what rules need.
#[derive(Debug)]
pub(crate) struct Store {
    node_name: Box<str>,
    services: HashMap<Arc<str>, Arc<Service>>,
    slices: HashMap<Arc<str>, Slice>,
    /// Slices of each Service, by name: their order breaks ties.
    slices_of: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    node: Node,
    listed: [bool; 3],
    problems: BTreeMap<(Kind, Arc<str>), Vec<Problem>>,
    /// Complaints about items of the last list that have no name to file them under.
    nameless: [Vec<Problem>; 3],
    dirty: [Dirty; 2],
}

/// What became of one object.
enum Change {
    None,
    Some,
}

impl Change {
    const fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Some => 1,
        }
    }
}

impl Store {
    pub(crate) fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.into(),
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            node: Node::default(),
            listed: [false; 3],
            problems: BTreeMap::new(),
            nameless: Default::default(),
            dirty: Default::default(),
        }
    }

    /// The first kind that has not been listed.
    pub(crate) fn missing(&self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|&k| !self.listed[k as usize])
    }

    pub(crate) fn is_listed(&self, kind: Kind) -> bool {
        self.listed[kind as usize]
    }

    pub(crate) const fn node(&self) -> &Node {
        &self.node
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

    /// A Service's slices, by name.
    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &Slice> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// Take what changed for a family since the last call.
    pub(crate) fn take_dirty(&mut self, family: Family) -> Dirty {
        std::mem::take(&mut self.dirty[family.index()])
    }

    /// Everything any Service's rules depend on may have changed.
    pub(crate) fn touch_everything(&mut self) {
        self.dirty.iter_mut().for_each(|d| d.everything = true);
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten().chain(self.nameless.iter().flatten())
    }

    /// Every healthCheckNodePort with the number of distinct local ready addresses, by Service name.
    pub(crate) fn health_checks(&self) -> Vec<HealthCheck> {
        let mut checks: Vec<HealthCheck> = self
            .services
            .iter()
            .filter_map(|(key, service)| {
                let (namespace, name) = key.split_once('/')?;
                let local: BTreeSet<_> = self.slices_of(key).flat_map(Slice::local_ready).collect();
                Some(HealthCheck {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    port: service.health_check_port?,
                    local_endpoints: local.len(),
                })
            })
            .collect();
        checks.sort_unstable();
        checks
    }

    /// Swap in a whole list. Nothing changes unless every page can be read.
    pub(crate) fn replace(&mut self, kind: Kind, pages: &[&[u8]]) -> Result<IngestReport, InputError> {
        let mut cut = Vec::with_capacity(pages.len());
        for (i, bytes) in pages.iter().enumerate() {
            cut.push(wire::page(i, bytes)?);
        }
        let mut report = self.report(kind);
        report.resource_version = cut.last().map(|p| p.resource_version.clone()).unwrap_or_default();
        self.nameless[kind as usize].clear();

        let mut gone = self.keys(kind);
        let items = cut.iter().flat_map(|p| p.items.iter().copied()).filter(|raw| !wire::is_other_kind(raw, kind));
        for (position, raw) in items.enumerate() {
            match self.upsert(kind, raw, position) {
                Ok((key, change)) => {
                    gone.remove(&key);
                    report.applied += 1;
                    report.changed += change.count();
                }
                Err(rejection) => {
                    report.rejected += 1;
                    if let Some(key) = self.reject(kind, *rejection) {
                        gone.remove(&key);
                    }
                }
            }
        }
        for key in gone {
            report.changed += self.delete(kind, &key).count();
        }
        self.listed[kind as usize] = true;
        report.in_sync = true;
        Ok(report)
    }

    /// Apply newline-delimited watch frames, in order.
    pub(crate) fn ingest(&mut self, kind: Kind, frames: &[u8]) -> IngestReport {
        let mut report = self.report(kind);
        let lines = frames.split(|&b| b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace));
        for (position, line) in lines.enumerate() {
            match wire::frame(line) {
                Ok(frame) => self.apply(kind, &frame, position, &mut report),
                Err(reason) => _ = report.malformed.get_or_insert(format!("frame {position}: {reason}")),
            }
        }
        report
    }

    fn apply(&mut self, kind: Kind, frame: &wire::Frame<'_>, position: usize, report: &mut IngestReport) {
        if frame.type_ == FrameType::Error {
            report.error_code = Some(wire::status_code(frame.object));
            return;
        }
        if let Some(version) = wire::resource_version(frame.object) {
            report.resource_version = version;
        }
        let change = match frame.type_ {
            FrameType::Bookmark => {
                report.bookmark = true;
                return;
            }
            FrameType::Deleted => match wire::decode::<Keyed<'_>>(kind, frame.object, position) {
                Ok(object) => Ok(wire::key(kind, &object.metadata).map_or(Change::None, |k| self.delete(kind, &k))),
                Err(rejection) => Err(rejection),
            },
            _ => self.upsert(kind, frame.object, position).map(|(_, change)| change),
        };
        match change {
            Ok(change) => {
                report.applied += 1;
                report.changed += change.count();
            }
            Err(rejection) => {
                report.rejected += 1;
                self.reject(kind, *rejection);
            }
        }
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

    /// Keys that a list of this kind may delete, objects known only by their problems included.
    fn keys(&self, kind: Kind) -> BTreeSet<Arc<str>> {
        let mut keys: BTreeSet<Arc<str>> =
            self.problems.keys().filter(|(k, _)| *k == kind).map(|(_, k)| k.clone()).collect();
        match kind {
            Kind::Service => keys.extend(self.services.keys().cloned()),
            Kind::EndpointSlice => keys.extend(self.slices.keys().cloned()),
            Kind::Node => _ = keys.insert(Arc::from(&*self.node_name)),
        }
        keys
    }

    fn upsert(&mut self, kind: Kind, raw: &RawValue, position: usize) -> Result<(Arc<str>, Change), Box<Rejection>> {
        match kind {
            Kind::Service => {
                let wire: ServiceWire<'_> = wire::decode(kind, raw, position)?;
                let key: Arc<str> =
                    wire::key(kind, &wire.metadata).ok_or_else(|| Box::new(wire::nameless(kind, position)))?.into();
                let object = || format!("Service {key}");
                let mut problems = Problems::new(&object);
                let service = Service::build(&wire, &mut problems);
                self.file(kind, &key, problems.into_vec());
                Ok((key.clone(), self.put_service(key, service)))
            }
            Kind::EndpointSlice => {
                let wire: SliceWire<'_> = wire::decode(kind, raw, position)?;
                let key: Arc<str> =
                    wire::key(kind, &wire.metadata).ok_or_else(|| Box::new(wire::nameless(kind, position)))?.into();
                let object = || format!("EndpointSlice {key}");
                let mut problems = Problems::new(&object);
                let namespace = wire::namespace(&wire.metadata);
                let slice = Slice::build(&wire, namespace, &self.node_name, &mut problems);
                self.file(kind, &key, problems.into_vec());
                Ok((key.clone(), self.put_slice(key, slice)))
            }
            Kind::Node => {
                let wire: NodeWire<'_> = wire::decode(kind, raw, position)?;
                let key: Arc<str> =
                    wire::key(kind, &wire.metadata).ok_or_else(|| Box::new(wire::nameless(kind, position)))?.into();
                if key != Arc::from(&*self.node_name) {
                    return Ok((key, Change::None));
                }
                let object = || format!("Node {key}");
                let mut problems = Problems::new(&object);
                let node = Node::build(&wire, &mut problems);
                self.file(kind, &key, problems.into_vec());
                Ok((key, self.put_node(node)))
            }
        }
    }

    /// Remember what is wrong with an object that keeps its previous state; gives its key.
    fn reject(&mut self, kind: Kind, rejection: Rejection) -> Option<Arc<str>> {
        let Some(key) = rejection.key else {
            self.nameless[kind as usize].push(rejection.problem);
            return None;
        };
        let key: Arc<str> = key.into();
        // Another Node's faults are none of our business.
        if kind != Kind::Node || *key == *self.node_name {
            self.file(kind, &key, vec![rejection.problem]);
        }
        Some(key)
    }

    fn file(&mut self, kind: Kind, key: &Arc<str>, problems: Vec<Problem>) {
        if !problems.is_empty() {
            self.problems.insert((kind, key.clone()), problems);
        } else if !self.problems.is_empty() {
            self.problems.remove(&(kind, key.clone()));
        }
    }

    fn delete(&mut self, kind: Kind, key: &str) -> Change {
        let key: Arc<str> = key.into();
        self.file(kind, &key, Vec::new());
        match kind {
            Kind::Service => self.put_service(key, None),
            Kind::EndpointSlice => self.put_slice(key, None),
            Kind::Node if *key == *self.node_name => self.put_node(Node::default()),
            Kind::Node => Change::None,
        }
    }

    fn put_service(&mut self, key: Arc<str>, new: Option<Service>) -> Change {
        let old = self.services.get(&key);
        if old.map(|s| &**s) == new.as_ref() {
            return Change::None;
        }
        self.touch(&key);
        match new {
            Some(service) => _ = self.services.insert(key, Arc::new(service)),
            None => _ = self.services.remove(&key),
        }
        Change::Some
    }

    fn put_slice(&mut self, key: Arc<str>, new: Option<Slice>) -> Change {
        let old = self.slices.get(&key);
        if old == new.as_ref() {
            return Change::None;
        }
        // A slice may change its label and so its Service: both are touched.
        if let Some(old) = old.map(|s| s.service.clone()) {
            self.touch(&old);
            if let Some(names) = self.slices_of.get_mut(&old) {
                names.remove(&key);
                if names.is_empty() {
                    self.slices_of.remove(&old);
                }
            }
        }
        match new {
            Some(slice) => {
                self.touch(&slice.service);
                self.slices_of.entry(slice.service.clone()).or_default().insert(key.clone());
                self.slices.insert(key, slice);
            }
            None => _ = self.slices.remove(&key),
        }
        Change::Some
    }

    fn put_node(&mut self, new: Node) -> Change {
        if self.node == new {
            return Change::None;
        }
        self.node = new;
        self.touch_everything();
        Change::Some
    }

    fn touch(&mut self, service: &Arc<str>) {
        for dirty in &mut self.dirty {
            if !dirty.services.contains(service) {
                dirty.services.insert(service.clone());
            }
        }
    }
}

/// Enough of a deleted object to know which it was.
#[derive(serde::Deserialize)]
struct Keyed<'a> {
    #[serde(borrow, default)]
    metadata: wire::Meta<'a>,
}
