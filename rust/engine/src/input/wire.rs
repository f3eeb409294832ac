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

mod envelope;
mod objects;
mod rejection;

pub(crate) use envelope::{
    Frame, FrameType, Identity, frame, is_other_kind, key, namespace, page, resource_version, status_code,
};
pub(crate) use objects::{EndpointWire, Named, NodeWire, PortWire, ServiceSpec, ServiceStatus, ServiceWire, SliceWire};
pub(crate) use rejection::{Rejection, decode, nameless};

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
