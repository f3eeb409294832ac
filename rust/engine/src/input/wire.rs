//! Decodes API bytes into minimal objects: only the fields that rules depend on, borrowed from the input; all others
//! are skipped.
//!
//! A list is first split into its items (a validating scan that builds nothing). Each item is then decoded separately,
//! so that an object of a wrong shape affects no other. Only an item that fails is read again to find the field.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::InputError;
use crate::input::problem::{Problem, ProblemKind, shorten};

/// Kinds of objects that the engine reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Node.
    Node,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Service, Self::EndpointSlice, Self::Node];

    /// Returns the kind's name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
        }
    }

    /// Parses the kind's name in the API.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == text)
    }
}

/// A string borrowed from the input unless it holds escapes. (`Option<Cow<str>>` would always copy: serde's `borrow`
/// does not reach through `Option`.)
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(v.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// The labels that a Service proxy reads.
#[derive(Debug, Default)]
pub(crate) struct Labels<'a> {
    /// `kubernetes.io/service-name`: the Service an `EndpointSlice` belongs to.
    pub(crate) service_name: Option<Text<'a>>,
    /// `service.kubernetes.io/service-proxy-name` is present: another proxy's Service.
    pub(crate) other_proxy: bool,
    /// `service.kubernetes.io/headless` is present.
    pub(crate) headless: bool,
    /// `k8s-app=kube-dns`: the cluster's DNS, whatever its Service is called.
    pub(crate) dns: bool,
    /// `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<Text<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;
        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut labels = Labels::default();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    match key.as_str() {
                        "kubernetes.io/service-name" => labels.service_name = Some(map.next_value()?),
                        "topology.kubernetes.io/zone" => labels.zone = Some(map.next_value()?),
                        "k8s-app" => labels.dns = map.next_value::<Text<'de>>()?.as_str() == "kube-dns",
                        "service.kubernetes.io/service-proxy-name" => {
                            labels.other_proxy = true;
                            map.next_value::<IgnoredAny>()?;
                        }
                        "service.kubernetes.io/headless" => {
                            labels.headless = true;
                            map.next_value::<IgnoredAny>()?;
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(labels)
            }
        }
        deserializer.deserialize_map(LabelsVisitor)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) namespace: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) resource_version: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) creation_timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) deletion_timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) labels: Option<Labels<'a>>,
    #[serde(borrow)]
    pub(crate) annotations: Option<Annotations<'a>>,
}

/// The annotations that the engine reads: the time of the change behind an `EndpointSlice`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Annotations<'a> {
    #[serde(borrow, rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub(crate) change_trigger: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceWire<'a> {
    #[serde(borrow, default)]
    pub(crate) metadata: Meta<'a>,
    #[serde(borrow)]
    pub(crate) spec: Option<ServiceSpec<'a>>,
    #[serde(borrow)]
    pub(crate) status: Option<ServiceStatus<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceSpec<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) type_: Option<Text<'a>>,
    #[serde(borrow, rename = "clusterIP")]
    pub(crate) cluster_ip: Option<Text<'a>>,
    #[serde(borrow, rename = "clusterIPs")]
    pub(crate) cluster_ips: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    pub(crate) ip_families: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    pub(crate) ports: Option<Vec<PortWire<'a>>>,
    #[serde(borrow)]
    pub(crate) session_affinity: Option<Text<'a>>,
    pub(crate) session_affinity_config: Option<AffinityConfig>,
    #[serde(borrow, rename = "externalIPs")]
    pub(crate) external_ips: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    pub(crate) load_balancer_source_ranges: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    pub(crate) internal_traffic_policy: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) external_traffic_policy: Option<Text<'a>>,
    pub(crate) health_check_node_port: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortWire<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) protocol: Option<Text<'a>>,
    pub(crate) port: Option<i64>,
    pub(crate) node_port: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AffinityConfig {
    #[serde(rename = "clientIP")]
    pub(crate) client_ip: Option<ClientIpConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientIpConfig {
    pub(crate) timeout_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceStatus<'a> {
    #[serde(borrow)]
    pub(crate) load_balancer: Option<LoadBalancer<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct LoadBalancer<'a> {
    #[serde(borrow)]
    pub(crate) ingress: Option<Vec<Ingress<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ingress<'a> {
    #[serde(borrow)]
    pub(crate) ip: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) ip_mode: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceWire<'a> {
    #[serde(borrow, default)]
    pub(crate) metadata: Meta<'a>,
    #[serde(borrow)]
    pub(crate) address_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) endpoints: Option<Vec<EndpointWire<'a>>>,
    #[serde(borrow)]
    pub(crate) ports: Option<Vec<PortWire<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointWire<'a> {
    #[serde(borrow)]
    pub(crate) addresses: Option<Vec<Text<'a>>>,
    pub(crate) conditions: Option<Conditions>,
    #[serde(borrow)]
    pub(crate) node_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) hints: Option<HintsWire<'a>>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(crate) struct Conditions {
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HintsWire<'a> {
    #[serde(borrow)]
    pub(crate) for_zones: Option<Vec<Named<'a>>>,
    #[serde(borrow)]
    pub(crate) for_nodes: Option<Vec<Named<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Named<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct NodeWire<'a> {
    #[serde(borrow, default)]
    pub(crate) metadata: Meta<'a>,
    #[serde(borrow)]
    pub(crate) spec: Option<NodeSpec<'a>>,
    #[serde(borrow)]
    pub(crate) status: Option<NodeStatus<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct NodeSpec<'a> {
    #[serde(borrow, rename = "podCIDR")]
    pub(crate) pod_cidr: Option<Text<'a>>,
    #[serde(borrow, rename = "podCIDRs")]
    pub(crate) pod_cidrs: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    pub(crate) taints: Option<Vec<TaintWire<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct TaintWire<'a> {
    #[serde(borrow)]
    pub(crate) key: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct NodeStatus<'a> {
    #[serde(borrow)]
    pub(crate) addresses: Option<Vec<NodeAddress<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct NodeAddress<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) type_: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) address: Option<Text<'a>>,
}

/// One page of a list: its undecoded items and its version.
pub(crate) struct Page<'a> {
    pub(crate) items: Vec<&'a RawValue>,
    pub(crate) resource_version: String,
}

/// Splits a `List` response or a JSON array into its items.
pub(crate) fn page(index: usize, bytes: &[u8]) -> Result<Page<'_>, InputError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ListMeta<'a> {
        #[serde(borrow)]
        resource_version: Option<Text<'a>>,
    }
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        metadata: Option<ListMeta<'a>>,
        #[serde(borrow)]
        items: Option<Vec<&'a RawValue>>,
    }
    let wrong = |reason: String| InputError::Page { page: index, reason };
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        let items = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        return Ok(Page { items, resource_version: String::new() });
    }
    let list: List<'_> = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
    // An API server writes `"items": null` for an empty list but never omits the field. Without it, this is another
    // object (a Status, for example), and treating it as an empty list would delete every rule.
    let has_items = list.items.is_some() || bytes_have_null_items(bytes);
    if !has_items {
        return Err(wrong("no \"items\" in it".to_owned()));
    }
    let resource_version = list.metadata.and_then(|m| m.resource_version).map(|t| t.0.into_owned()).unwrap_or_default();
    Ok(Page { items: list.items.unwrap_or_default(), resource_version })
}

fn bytes_have_null_items(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(borrow)]
        items: Option<&'a RawValue>,
        #[serde(borrow)]
        kind: Option<Text<'a>>,
    }
    // `Option<&RawValue>` is also None for null, so the kind decides whether this is a list.
    serde_json::from_slice::<Probe<'_>>(bytes)
        .is_ok_and(|p| p.items.is_some() || p.kind.is_some_and(|k| k.as_str().ends_with("List")))
}

/// One watch event.
pub(crate) struct Frame<'a> {
    pub(crate) type_: FrameType,
    pub(crate) object: &'a RawValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum FrameType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// Reads one line of a watch.
pub(crate) fn frame(line: &[u8]) -> Result<Frame<'_>, String> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(rename = "type")]
        type_: FrameType,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let wire: Wire<'_> = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    Ok(Frame { type_: wire.type_, object: wire.object })
}

/// Returns `metadata.resourceVersion` of any object.
pub(crate) fn resource_version(raw: &RawValue) -> Option<String> {
    identity(raw)?.metadata.resource_version.map(|t| t.0.into_owned())
}

/// Returns `code` of a Status.
pub(crate) fn status_code(raw: &RawValue) -> u32 {
    #[derive(Deserialize)]
    struct Status {
        code: Option<u32>,
    }
    serde_json::from_str::<Status>(raw.get()).ok().and_then(|s| s.code).unwrap_or(0)
}

#[derive(Deserialize)]
struct Identity<'a> {
    #[serde(borrow, default)]
    metadata: Meta<'a>,
}

fn identity(raw: &RawValue) -> Option<Identity<'_>> {
    serde_json::from_str(raw.get()).ok()
}

/// Returns whether an item states another kind (items of API lists state none; manifests are mixed).
pub(crate) fn is_other_kind(raw: &RawValue, kind: Kind) -> bool {
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(borrow)]
        kind: Option<Text<'a>>,
    }
    serde_json::from_str::<Probe<'_>>(raw.get())
        .is_ok_and(|p| p.kind.is_some_and(|k| !k.as_str().is_empty() && k.as_str() != kind.name()))
}

/// Returns an object's namespace, which manifests may omit.
pub(crate) fn namespace<'a>(meta: &'a Meta<'_>) -> &'a str {
    meta.namespace.as_ref().map(Text::as_str).filter(|n| !n.is_empty()).unwrap_or("default")
}

/// Returns the store key of an object: `ns/name`, or the name of a Node.
pub(crate) fn key(kind: Kind, meta: &Meta<'_>) -> Option<String> {
    let name = meta.name.as_ref().map(Text::as_str).filter(|n| !n.is_empty())?;
    if kind == Kind::Node {
        return Some(name.to_owned());
    }
    Some([namespace(meta), "/", name].concat())
}

/// An object that could not be decoded, with its identity as far as it is known.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) key: Option<String>,
    pub(crate) problem: Problem,
}

/// Decodes one item, or returns which field is wrong. `position` identifies an item without a name.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    kind: Kind,
    raw: &'a RawValue,
    position: usize,
) -> Result<T, Box<Rejection>> {
    serde_json::from_str::<T>(raw.get()).map_err(|_| Box::new(explain::<T>(kind, raw, position)))
}

/// Returns the rejection of an item without a usable name. It has no key, so its previous state cannot be kept.
pub(crate) fn nameless(kind: Kind, position: usize) -> Rejection {
    Rejection {
        key: None,
        problem: Problem {
            object: format!("{} (item {position})", kind.name()),
            field: "metadata.name".into(),
            value: String::new(),
            reason: "is missing or empty".into(),
            kind: ProblemKind::Rejected,
        },
    }
}

fn explain<'a, T: Deserialize<'a>>(kind: Kind, raw: &'a RawValue, position: usize) -> Rejection {
    let key = identity(raw).and_then(|i| key(kind, &i.metadata));
    let object = match &key {
        Some(key) => format!("{} {key}", kind.name()),
        None => format!("{} (item {position})", kind.name()),
    };
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let (field, reason) = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => (".".to_owned(), "cannot be decoded".to_owned()),
        Err(error) => (error.path().to_string(), without_position(&error.inner().to_string())),
    };
    let value = value_at(raw, &field);
    Rejection {
        key,
        problem: Problem { object, field: field.into(), value, reason: reason.into(), kind: ProblemKind::Rejected },
    }
}

/// Removes the position from a message of `serde_json`: it refers to the item's text, which a reader of the object does
/// not have.
fn without_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message.to_owned(),
    }
}

fn value_at(raw: &RawValue, path: &str) -> String {
    let Ok(root) = serde_json::from_str::<serde_json::Value>(raw.get()) else { return String::new() };
    let pointer: String = path.replace('[', ".").replace(']', "").split('.').filter(|s| !s.is_empty()).fold(
        String::new(),
        |mut pointer, segment| {
            pointer.push('/');
            pointer.push_str(segment);
            pointer
        },
    );
    root.pointer(&pointer).map(|v| shorten(&v.to_string())).unwrap_or_default()
}
