//! What surrounds objects: pages of a list, frames of a watch, an object's identity.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Kind, Meta, Text};
use crate::error::InputError;

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

/// The part of an object that names it, whatever else does not decode.
#[derive(Deserialize)]
pub(crate) struct Identity<'a> {
    #[serde(borrow, default)]
    pub(crate) metadata: Meta<'a>,
}

/// Returns the identity of an object of any kind, if it has one.
pub(super) fn identity(raw: &RawValue) -> Option<Identity<'_>> {
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
