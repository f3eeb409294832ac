"""One file's bytes → the objects in it, or precisely what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from ferrule.types import KINDS, Kind
from ferrule.yamljson import YamlError, load_all

NAMESPACED: frozenset[Kind] = frozenset({"Service", "EndpointSlice"})


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something about a file. `document` counts from 1; `field` is empty where the whole document is meant."""

    file: str
    document: int
    field: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}, document {self.document}" if self.document else self.file
        return f"{where}: {self.field}: {self.reason}" if self.field else f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object as the engine takes it."""

    kind: Kind
    namespace: str
    """Empty for a Node."""
    name: str
    raw: bytes
    """JSON, namespace filled in."""
    document: int

    @property
    def title(self) -> str:
        """`Service shop/web`: the name the engine's problems use."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file's content. With complaints, nothing of it counts: half a file is no state anybody wanted."""

    manifests: tuple[Manifest, ...]
    complaints: tuple[Complaint, ...]
    notes: tuple[Complaint, ...]
    """What is ignored on purpose: objects of kinds that make no rules."""


def parse(file: str, data: bytes) -> Parsed:
    """`file` names it in complaints; `.json` files are read as JSON, everything else as YAML."""
    manifests: list[Manifest] = []
    complaints: list[Complaint] = []
    notes: dict[str, Complaint] = {}
    number = 0
    try:
        for number, document in enumerate(_documents(file, data), start=1):
            for field, item in _items(document):
                _take(file, number, field, item, manifests, complaints, notes)
    except YamlError as error:
        complaints.append(Complaint(file, number + 1, "", str(error)))
    return Parsed(tuple(manifests), tuple(complaints), tuple(notes.values()))


def _documents(file: str, data: bytes) -> Iterator[Any]:
    if file.endswith(".json"):
        try:
            yield orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise YamlError(f"not JSON: {error.msg}", error.lineno) from error
        return
    for document, repeated in load_all(data):
        if repeated:
            raise YamlError(f"the key {repeated[0]!r} is given twice")
        if document is not None:  # only comments, or nothing between two `---`
            yield document


def _items(document: object) -> Iterator[tuple[str, object]]:
    """A document is an object, a List, or (as recorded histories are) an array of objects."""
    if isinstance(document, list):
        for i, item in enumerate(document):
            yield f"[{i}]", item
        return
    if isinstance(document, dict) and str(document.get("kind", "")).endswith("List") and "items" in document:
        inner = str(document["kind"]).removesuffix("List")
        for i, item in enumerate(document["items"] or []):
            # Items of a ServiceList carry no kind of their own.
            if isinstance(item, dict) and inner and "kind" not in item:
                item = {"kind": inner, **item}  # noqa: PLW2901 - the completed item
            yield f"items[{i}]", item
        return
    yield "", document


def _take(
    file: str,
    number: int,
    field: str,
    item: object,
    manifests: list[Manifest],
    complaints: list[Complaint],
    notes: dict[str, Complaint],
) -> None:
    def complain(at: str, reason: str) -> None:
        complaints.append(Complaint(file, number, ".".join(part for part in (field, at) if part), reason))

    if not isinstance(item, dict):
        complain("", f"is no object but {_type_name(item)}")
        return
    kind = item.get("kind")
    if not isinstance(kind, str) or not kind:
        complain("kind", "is missing")
        return
    if kind not in KINDS:
        notes.setdefault(kind, Complaint(file, number, field, f"kind {kind} makes no rules: ignored"))
        return
    metadata: dict[str, Any] = item["metadata"] if isinstance(item.get("metadata"), dict) else {}
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        complain("metadata.name", "is missing or no string")
        return
    missing = _cut_short(kind, item)
    if missing:
        complain(missing, f"is missing: {kind} {name} looks half-written")
        return
    namespace = ""
    if kind in NAMESPACED:
        namespace = metadata.get("namespace") or "default"
        if not isinstance(namespace, str):
            complain("metadata.namespace", "is no string")
            return
        item = {**item, "metadata": {**metadata, "namespace": namespace}}
    try:
        raw = orjson.dumps(item)
    except (TypeError, orjson.JSONEncodeError) as error:
        complain("", f"cannot be expressed as JSON: {error}")
        return
    manifests.append(Manifest(kind, namespace, name, raw, number))


def _cut_short(kind: str, item: dict[str, Any]) -> str | None:
    """The field whose absence tells a file that ends too early (YAML cut anywhere is still YAML)."""
    if kind == "Service" and not isinstance(item.get("spec"), dict):
        return "spec"
    if kind == "EndpointSlice" and not item.get("addressType"):
        return "addressType"
    return None


def _type_name(value: object) -> str:
    names = {
        type(None): "null",
        str: "a string",
        list: "a list",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), type(value).__name__)
