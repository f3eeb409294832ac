//! Single objects: decoded, compared with the stored ones, put and deleted.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::Store;
use crate::input::node::OwnNode;
use crate::input::problem::{Problem, Problems};
use crate::input::service::Service;
use crate::input::wire::{self, Kind, NodeWire, Rejection, ServiceWire, SliceWire};
use crate::model::endpoints::Slice;

/// A decoded object.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) key: Arc<str>,
    object: Object,
    pub(super) problems: Vec<Problem>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`.
    pub(super) triggered: Option<Box<str>>,
}

/// A decoded object by kind; `None` for objects that a proxy ignores.
#[derive(Debug)]
pub(super) enum Object {
    Service(Option<Arc<Service>>),
    Slice(Option<Slice>),
    Node(OwnNode),
    OtherNode,
}

/// Subject of the problems of items without a name.
pub(super) fn nameless(kind: Kind) -> (Kind, Arc<str>) {
    (kind, Arc::default())
}

/// The effect of one object on the store.
pub(super) enum Change {
    None,
    Some,
}

impl Change {
    pub(super) const fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Some => 1,
        }
    }
}

impl Store {
    /// Decodes one object without changing the store.
    pub(super) fn read(&self, kind: Kind, raw: &RawValue, position: usize) -> Result<Read, Box<Rejection>> {
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
    pub(super) fn holds(&self, read: &Read) -> bool {
        match &read.object {
            Object::Service(service) => self.services.get(&read.key) == service.as_ref(),
            Object::Slice(slice) => self.slices.get(&read.key) == slice.as_ref(),
            Object::Node(node) => self.node.as_ref() == Some(node),
            Object::OtherNode => true,
        }
    }

    pub(super) fn put(&mut self, kind: Kind, read: Read) -> Change {
        let Read { key, object, problems, .. } = read;
        self.file(kind, &key, problems);
        match object {
            Object::Service(service) => self.put_service(key, service),
            Object::Slice(slice) => self.put_slice(key, slice),
            Object::Node(node) => self.put_node(Some(node)),
            Object::OtherNode => Change::None,
        }
    }

    /// Records the problems of an object that keeps its previous state. Returns the object's key.
    pub(super) fn reject(&mut self, kind: Kind, rejection: Rejection) -> Option<Arc<str>> {
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

    pub(super) fn file(&mut self, kind: Kind, key: &Arc<str>, problems: Vec<Problem>) {
        self.problems.set((kind, key.clone()), problems);
    }

    pub(super) fn delete(&mut self, kind: Kind, key: &str) -> Change {
        let key: Arc<str> = key.into();
        self.file(kind, &key, Vec::new());
        match kind {
            Kind::Service => self.put_service(key, None),
            Kind::EndpointSlice => self.put_slice(key, None),
            Kind::Node if *key == *self.node_name => self.put_node(None),
            Kind::Node => Change::None,
        }
    }

    pub(super) fn put_service(&mut self, key: Arc<str>, new: Option<Arc<Service>>) -> Change {
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

    pub(super) fn put_slice(&mut self, key: Arc<str>, new: Option<Slice>) -> Change {
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
    pub(super) fn put_node(&mut self, new: Option<OwnNode>) -> Change {
        let rules = new.as_ref().map(|node| node.rules.clone()).unwrap_or_default();
        self.node = new;
        if self.node_rules == rules {
            return Change::None;
        }
        self.node_rules = rules;
        self.touch_everything();
        Change::Some
    }

    pub(super) fn touch(&mut self, service: &Arc<str>) {
        for dirty in &mut self.dirty {
            if !dirty.services.contains(service) {
                dirty.services.insert(service.clone());
            }
        }
    }
}
