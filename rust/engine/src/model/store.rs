//! The object store: the cluster's objects by key, and the Services that changed since each family last took the
//! changes.
//!
//! Ingest takes time proportional to the message: it decodes, compares, replaces and marks objects dirty. It renders no
//! rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::value::RawValue;

use crate::error::{InputError, ListError};
use crate::input::list::{ITEM_LIMIT, ListReader};
use crate::input::node::{Node, OwnNode};
use crate::input::problem::{Problem, Problems};
use crate::input::service::Service;
use crate::input::standing_problems::{ProblemChanges, StandingProblems};
use crate::input::wire::{self, FrameType, Kind, NodeWire, Rejection, ServiceWire, SliceWire};
use crate::model::address::Family;
use crate::model::endpoints::Slice;
use crate::report::{HealthCheck, IngestReport};

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

/// A partially received list of one kind.
#[derive(Debug)]
struct Arriving {
    reader: ListReader,
    staged: Staged,
}

/// The decoded items of a list, before they take effect together.
#[derive(Debug, Default)]
struct Staged {
    new: Vec<Read>,
    /// Items that equal the stored object.
    same: Vec<(Arc<str>, Vec<Problem>)>,
    rejected: Vec<Rejection>,
}

/// A decoded object.
#[derive(Debug)]
struct Read {
    key: Arc<str>,
    object: Object,
    problems: Vec<Problem>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`.
    triggered: Option<Box<str>>,
}

/// A decoded object by kind; `None` for objects that a proxy ignores.
#[derive(Debug)]
enum Object {
    Service(Option<Arc<Service>>),
    Slice(Option<Slice>),
    Node(OwnNode),
    OtherNode,
}

/// The maximum number of trigger times kept between two syncs; more add no information.
const TRIGGER_LIMIT: usize = 10_000;

/// Subject of the problems of items without a name.
fn nameless(kind: Kind) -> (Kind, Arc<str>) {
    (kind, Arc::default())
}

fn not_begun(kind: Kind) -> ListError {
    ListError::NotBegun(kind.name())
}

/// The effect of one object on the store.
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

    /// Replaces all objects of a kind by a complete list. Nothing changes unless every page is readable.
    pub(crate) fn replace(&mut self, kind: Kind, pages: &[&[u8]]) -> Result<IngestReport, InputError> {
        let mut cut = Vec::with_capacity(pages.len());
        for (i, bytes) in pages.iter().enumerate() {
            cut.push(wire::page(i, bytes)?);
        }
        let mut staged = Staged::default();
        let items = cut.iter().flat_map(|p| p.items.iter().copied()).filter(|raw| !wire::is_other_kind(raw, kind));
        for (position, raw) in items.enumerate() {
            self.stage(kind, raw, position, &mut staged);
        }
        let version = cut.last().map(|p| p.resource_version.clone()).unwrap_or_default();
        Ok(self.swap(kind, staged, version))
    }

    /// Begins to receive a list of this kind, and discards one that was being received.
    pub(crate) fn begin_list(&mut self, kind: Kind) {
        self.arriving[kind as usize] =
            Some(Arriving { reader: ListReader::new(ITEM_LIMIT), staged: Staged::default() });
    }

    /// Adds a chunk to the list. On an error the list is discarded and nothing changes.
    pub(crate) fn feed_list(&mut self, kind: Kind, chunk: &[u8]) -> Result<(), ListError> {
        let mut arriving = self.arriving[kind as usize].take().ok_or_else(|| not_begun(kind))?;
        let Arriving { reader, staged } = &mut arriving;
        reader.feed(chunk, &mut |position, text| {
            let raw: &RawValue = serde_json::from_slice(text)
                .map_err(|e| InputError::Page { page: 0, reason: format!("item {position}: {e}") })?;
            self.stage(kind, raw, position, staged);
            Ok(())
        })?;
        self.arriving[kind as usize] = Some(arriving);
        Ok(())
    }

    /// Completes the list and applies it. Returns an error, and changes nothing, if its text is incomplete.
    pub(crate) fn end_list(&mut self, kind: Kind) -> Result<IngestReport, ListError> {
        let Arriving { reader, staged } = self.arriving[kind as usize].take().ok_or_else(|| not_begun(kind))?;
        let end = reader.end()?;
        Ok(self.swap(kind, staged, end.resource_version))
    }

    /// Discards the list that is being received.
    pub(crate) fn abort_list(&mut self, kind: Kind) {
        self.arriving[kind as usize] = None;
    }

    /// Decodes one item of a list. An item that equals the stored object is not kept a second time.
    fn stage(&self, kind: Kind, raw: &RawValue, position: usize, staged: &mut Staged) {
        match self.read(kind, raw, position) {
            Ok(read) if self.holds(&read) => staged.same.push((read.key, read.problems)),
            Ok(read) => staged.new.push(read),
            Err(rejection) => staged.rejected.push(*rejection),
        }
    }

    /// Replaces all objects of the kind by the staged ones.
    fn swap(&mut self, kind: Kind, staged: Staged, resource_version: String) -> IngestReport {
        self.arriving[kind as usize] = None;
        self.problems.set(nameless(kind), Vec::new());
        let mut report = self.report(kind);
        report.resource_version = resource_version;
        report.applied = staged.same.len() + staged.new.len();
        report.rejected = staged.rejected.len();

        let mut removed = self.keys(kind);
        for (key, problems) in staged.same {
            removed.remove(&key);
            self.file(kind, &key, problems);
        }
        for read in staged.new {
            removed.remove(&read.key);
            report.changed += self.put(kind, read).count();
        }
        for rejection in staged.rejected {
            if let Some(key) = self.reject(kind, rejection) {
                removed.remove(&key);
            }
        }
        for key in removed {
            report.changed += self.delete(kind, &key).count();
        }
        self.listed[kind as usize] = true;
        report.in_sync = true;
        report
    }

    /// Applies newline-delimited watch frames, in order.
    pub(crate) fn ingest(&mut self, kind: Kind, frames: &[u8]) -> IngestReport {
        // A staged list refers to stored objects that were equal when they were decoded. A change in between would
        // invalidate that.
        self.abort_list(kind);
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
            _ => self.read(kind, frame.object, position).map(|mut read| {
                let triggered = read.triggered.take();
                let change = self.put(kind, read);
                if matches!(change, Change::Some) {
                    self.remember_trigger(triggered);
                }
                change
            }),
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

    /// Returns the keys that a list of this kind may delete, including objects known only by their problems.
    fn keys(&self, kind: Kind) -> BTreeSet<Arc<str>> {
        let with_problems = self.problems.subjects().filter(|(k, key)| *k == kind && !key.is_empty());
        let mut keys: BTreeSet<Arc<str>> = with_problems.map(|(_, key)| key.clone()).collect();
        match kind {
            Kind::Service => keys.extend(self.services.keys().cloned()),
            Kind::EndpointSlice => keys.extend(self.slices.keys().cloned()),
            Kind::Node => _ = keys.insert(Arc::from(&*self.node_name)),
        }
        keys
    }

    /// Decodes one object without changing the store.
    fn read(&self, kind: Kind, raw: &RawValue, position: usize) -> Result<Read, Box<Rejection>> {
        let nameless = || Box::new(wire::nameless(kind, position));
        match kind {
            Kind::Service => {
                let mut wire: ServiceWire<'_> = wire::decode(kind, raw, position)?;
                let key: Arc<str> = wire::key(kind, &wire.metadata).ok_or_else(nameless)?.into();
                let object = || format!("Service {key}");
                let mut problems = Problems::new(&object);
                if !self.external_ips
                    && let Some(ips) = wire.spec.as_mut().and_then(|s| s.external_ips.take()).filter(|i| !i.is_empty())
                {
                    let ips: Vec<&str> = ips.iter().map(wire::Text::as_str).collect();
                    let reason = "is not programmed: feature gate AllowServiceExternalIPs is off";
                    problems.ignore("spec.externalIPs", &ips.join(", "), reason);
                }
                let service = Service::build(&wire, &mut problems);
                let problems = problems.into_vec();
                Ok(Read { key, object: Object::Service(service.map(Arc::new)), problems, triggered: None })
            }
            Kind::EndpointSlice => {
                let wire: SliceWire<'_> = wire::decode(kind, raw, position)?;
                let key: Arc<str> = wire::key(kind, &wire.metadata).ok_or_else(nameless)?.into();
                let object = || format!("EndpointSlice {key}");
                let mut problems = Problems::new(&object);
                let namespace = wire::namespace(&wire.metadata);
                let slice = Slice::build(&wire, namespace, &self.node_name, &mut problems);
                let problems = problems.into_vec();
                let triggered = wire.metadata.annotations.and_then(|a| a.change_trigger).map(|t| t.as_str().into());
                Ok(Read { key, object: Object::Slice(slice), problems, triggered })
            }
            Kind::Node => {
                let wire: NodeWire<'_> = wire::decode(kind, raw, position)?;
                let key: Arc<str> = wire::key(kind, &wire.metadata).ok_or_else(nameless)?.into();
                if *key != *self.node_name {
                    return Ok(Read { key, object: Object::OtherNode, problems: Vec::new(), triggered: None });
                }
                let object = || format!("Node {key}");
                let mut problems = Problems::new(&object);
                let node = OwnNode::build(&wire, &mut problems);
                let problems = problems.into_vec();
                Ok(Read { key, object: Object::Node(node), problems, triggered: None })
            }
        }
    }

    /// Returns whether the stored object equals this one.
    fn holds(&self, read: &Read) -> bool {
        match &read.object {
            Object::Service(service) => self.services.get(&read.key) == service.as_ref(),
            Object::Slice(slice) => self.slices.get(&read.key) == slice.as_ref(),
            Object::Node(node) => self.node.as_ref() == Some(node),
            Object::OtherNode => true,
        }
    }

    fn put(&mut self, kind: Kind, read: Read) -> Change {
        let Read { key, object, problems, .. } = read;
        self.file(kind, &key, problems);
        match object {
            Object::Service(service) => self.put_service(key, service),
            Object::Slice(slice) => self.put_slice(key, slice),
            Object::Node(node) => self.put_node(Some(node)),
            Object::OtherNode => Change::None,
        }
    }

    /// Remembers the time that the controller recorded for the change behind a watch event. Of a burst beyond the limit
    /// only the first times are kept.
    fn remember_trigger(&mut self, triggered: Option<Box<str>>) {
        if let Some(time) = triggered.filter(|_| self.triggers.len() < TRIGGER_LIMIT) {
            self.triggers.push(time);
        }
    }

    /// Takes the trigger times of endpoint changes since the last call.
    pub(crate) fn take_triggers(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.triggers)
    }

    /// Records the problems of an object that keeps its previous state. Returns the object's key.
    fn reject(&mut self, kind: Kind, rejection: Rejection) -> Option<Arc<str>> {
        let Some(key) = rejection.key else {
            self.problems.add(nameless(kind), rejection.problem);
            return None;
        };
        let key: Arc<str> = key.into();
        // Problems of other Nodes are not reported.
        if kind != Kind::Node || *key == *self.node_name {
            self.file(kind, &key, vec![rejection.problem]);
        }
        Some(key)
    }

    fn file(&mut self, kind: Kind, key: &Arc<str>, problems: Vec<Problem>) {
        self.problems.set((kind, key.clone()), problems);
    }

    fn delete(&mut self, kind: Kind, key: &str) -> Change {
        let key: Arc<str> = key.into();
        self.file(kind, &key, Vec::new());
        match kind {
            Kind::Service => self.put_service(key, None),
            Kind::EndpointSlice => self.put_slice(key, None),
            Kind::Node if *key == *self.node_name => self.put_node(None),
            Kind::Node => Change::None,
        }
    }

    fn put_service(&mut self, key: Arc<str>, new: Option<Arc<Service>>) -> Change {
        if self.services.get(&key) == new.as_ref() {
            return Change::None;
        }
        self.touch(&key);
        if new.as_ref().is_some_and(|s| s.health_check_port.is_some()) {
            self.health_checked.insert(key.clone());
        } else {
            self.health_checked.remove(&key);
        }
        match new {
            Some(service) => _ = self.services.insert(key, service),
            None => _ = self.services.remove(&key),
        }
        Change::Some
    }

    fn put_slice(&mut self, key: Arc<str>, new: Option<Slice>) -> Change {
        let old = self.slices.get(&key);
        if old == new.as_ref() {
            return Change::None;
        }
        // A slice whose Service label changed affects both Services.
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

    /// Only the parts that rules depend on are a change.
    fn put_node(&mut self, new: Option<OwnNode>) -> Change {
        let rules = new.as_ref().map(|node| node.rules.clone()).unwrap_or_default();
        self.node = new;
        if self.node_rules == rules {
            return Change::None;
        }
        self.node_rules = rules;
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

/// The fields that identify a deleted object.
#[derive(serde::Deserialize)]
struct Keyed<'a> {
    #[serde(borrow, default)]
    metadata: wire::Meta<'a>,
}
