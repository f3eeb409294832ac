"""Decodes one file into its objects, or into located complaints. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from ferrule.types import KINDS, Kind
from ferrule.yamljson import YamlError, load_all, load_json, looks_like_json

NAMESPACED: frozenset[Kind] = frozenset({"Service", "EndpointSlice"})


@dataclass(frozen=True, slots=True)
class Complaint:
    """A complaint about a file. `document` counts from 1; `field` is empty for the whole document."""

    file: str
    document: int
    field: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}, document {self.document}" if self.document else self.file
        return f"{where}: {self.field}: {self.reason}" if self.field else f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object in the engine's input format."""

    kind: Kind
    namespace: str
    """Empty for a Node."""
    name: str
    raw: bytes
    """JSON, namespace filled in."""
    document: int

    @property
    def title(self) -> str:
        """`Service shop/web`: the object's name in the engine's problems."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file's content. With complaints, none of it takes effect, because half a file is not an intended state."""

    manifests: tuple[Manifest, ...]
    complaints: tuple[Complaint, ...]
    notes: tuple[Complaint, ...]
    """Objects that are ignored on purpose: kinds that do not affect rules."""


def parse(file: str, data: bytes) -> Parsed:
    """Reads one file. `file` names it in complaints; `.json` files must be JSON, everything else may be YAML, too."""
    reader = _Reader(file)
    try:
        for document in _documents(file, data):
            reader.document += 1
            reader.read(document)
    except YamlError as error:
        reader.complaints.append(Complaint(file, reader.document + 1, "", str(error)))
    return Parsed(tuple(reader.manifests), tuple(reader.complaints), tuple(reader.notes.values()))


def _documents(file: str, data: bytes) -> Iterator[Any]:
    try:
        # kubectl writes JSON under any name. Decoding it as YAML takes thirty times as long.
        found = load_json(data) if file.endswith(".json") or looks_like_json(data) else None
    except YamlError:
        if file.endswith(".json"):
            raise
        found = None  # a flow mapping, or several JSON documents between `---`
    for document, repeated in load_all(data) if found is None else (found,):
        if repeated:
            raise YamlError(f"the key {repeated[0]!r} is given twice")
        if document is not None:  # only comments, or nothing between two `---`
            yield document


class _Reader:
    """Collects the objects and complaints of one file's documents."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.document = 0
        """The number of the current document, from 1."""
        self.manifests: list[Manifest] = []
        self.complaints: list[Complaint] = []
        self.notes: dict[str, Complaint] = {}

    def read(self, document: object) -> None:
        """Takes a document: an object, a List, or (as recorded histories are) an array of objects."""
        if isinstance(document, list):
            for i, item in enumerate(document):
                self._take(f"[{i}]", item)
            return
        kind = document.get("kind") if isinstance(document, dict) else None
        if not isinstance(document, dict) or not isinstance(kind, str) or not kind.endswith("List"):
            self._take("", document)
            return
        if "items" not in document:  # another kind whose name ends with "List"
            self._take("", document)
            return
        items = document["items"]
        if not isinstance(items, list | None):
            self._complain("items", f"is not a list but {_type_name(items)}")
            return
        inner = kind.removesuffix("List")
        for i, item in enumerate(items or ()):
            # Items of a ServiceList have no kind of their own.
            whole = {"kind": inner, **item} if isinstance(item, dict) and inner and "kind" not in item else item
            self._take(f"items[{i}]", whole)

    def _complain(self, at: str, reason: str, within: str = "") -> None:
        field = ".".join(part for part in (within, at) if part)
        self.complaints.append(Complaint(self.file, self.document, field, reason))

    def _take(self, field: str, item: object) -> None:
        if not isinstance(item, dict):
            self._complain("", f"is not an object but {_type_name(item)}", field)
            return
        kind = item.get("kind")
        if not isinstance(kind, str) or not kind:
            self._complain("kind", "is missing", field)
            return
        if kind not in KINDS:
            note = Complaint(self.file, self.document, field, f"kind {kind} makes no rules: ignored")
            self.notes.setdefault(kind, note)
            return
        metadata: dict[str, Any] = item["metadata"] if isinstance(item.get("metadata"), dict) else {}
        name = metadata.get("name")
        if not isinstance(name, str) or not name:
            self._complain("metadata.name", "is missing or not a string", field)
            return
        missing = _cut_short(kind, item)
        if missing:
            self._complain(missing, f"is missing: {kind} {name} looks half-written", field)
            return
        namespace = ""
        if kind in NAMESPACED:
            namespace = metadata.get("namespace") or "default"
            if not isinstance(namespace, str):
                self._complain("metadata.namespace", "is not a string", field)
                return
            item = {**item, "metadata": {**metadata, "namespace": namespace}}
        try:
            raw = orjson.dumps(item)
        except (TypeError, orjson.JSONEncodeError) as error:
            self._complain("", f"cannot be expressed as JSON: {error}", field)
            return
        self.manifests.append(Manifest(kind, namespace, name, raw, self.document))


def _cut_short(kind: str, item: dict[str, Any]) -> str | None:
    """Returns the field whose absence indicates a truncated file (YAML cut anywhere is still YAML)."""
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
        dict: "an object",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), type(value).__name__)
