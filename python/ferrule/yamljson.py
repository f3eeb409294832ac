"""Decodes YAML with JSON's data model.

YAML 1.1's implicit types are not used: `on`, `yes` and `2024-01-01` stay text, `010` stays text (and is rejected where
a number is expected, instead of silently becoming 8). Keys are strings; a repeated key is reported, because a human
reader sees one value and the parser another. JSON is YAML, and `load_json` decodes it several times as fast.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson
import yaml

EXPANDED_LIMIT = 2_000_000
"""Maximum number of values in one document after expansion of aliases. A few lines of nested aliases would otherwise
expand to gigabytes."""


class YamlError(Exception):
    """A document that cannot be decoded. `line` counts from 1; None if the parser does not report it."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")
        self.reason = reason
        self.line = line


class _Loader(yaml.CSafeLoader):
    """Safe, C-based, with JSON's scalars only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Like the base class, but keys must be strings, and repeated keys are recorded."""
        if isinstance(node, yaml.MappingNode):
            own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for index, (key, _) in enumerate(node.value):
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(None, None, "a key must be a string", key.start_mark)
                if key.value in own[:index] and key.value != "<<":
                    self.repeated.append(key.value)
        mapping = super().construct_mapping(node, deep=deep)
        return {key if isinstance(key, str) else _key_text(key): value for key, value in mapping.items()}


def _key_text(key: object) -> str:
    """JSON has only string keys; `80: x` means "80" and `true: x` means "true"."""
    return {"True": "true", "False": "false", "None": "null"}.get(str(key), str(key))


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?$", "-+0123456789"),
    ("merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def load_all(data: bytes) -> Iterator[tuple[Any, list[str]]]:
    """Yields each document with its repeated keys. Raises `YamlError` at the first document that cannot be decoded."""
    try:
        loader = _Loader(data)
    except (yaml.YAMLError, UnicodeError) as error:
        raise _explain(error) from error
    try:
        while loader.check_data():  # type: ignore[no-untyped-call] # the stubs leave it out
            loader.repeated = []
            document = loader.get_data()
            _check_size(document)
            yield document, loader.repeated
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
        raise _explain(error) from error
    finally:
        loader.dispose()


def looks_like_json(data: bytes) -> bool:
    """Returns whether the data may be JSON: the first character opens an object or an array."""
    return data[:256].lstrip()[:1] in (b"{", b"[")


def load_json(data: bytes) -> tuple[Any, list[str]]:
    """Returns a JSON document with its repeated keys. Raises `YamlError`."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise YamlError(f"not JSON: {error.msg}", error.lineno) from error
    repeated: list[str] = []

    def look(pairs: list[tuple[str, None]]) -> None:
        if len(dict(pairs)) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.extend(key for index, key in enumerate(keys) if key in keys[:index])

    try:
        # orjson silently keeps the last of repeated keys. The values do not matter here.
        json.loads(data, object_pairs_hook=look)
    except (ValueError, RecursionError) as error:
        raise YamlError("not JSON: nested too deeply, or a number with too many digits") from error
    return document, repeated


def load_first(data: bytes) -> tuple[Any, list[str]]:
    """Returns the first document; None if there is none. Later ones are ignored, as in kube-proxy."""
    for document, repeated in load_all(data):
        return document, repeated
    return None, []


def _explain(error: Exception) -> YamlError:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    return YamlError(f"not YAML: {reason}", None if mark is None else mark.line + 1)


def _check_size(document: object) -> None:
    sizes: dict[int, int] = {}

    def size(value: object, depth: int) -> int:
        if not isinstance(value, dict | list):
            return 1
        if depth > 200:
            raise ValueError("nested too deeply")
        known = sizes.get(id(value))
        if known is None:
            children = value.values() if isinstance(value, dict) else value
            known = sizes[id(value)] = 1 + sum(size(child, depth + 1) for child in children)
        if known > EXPANDED_LIMIT:
            raise ValueError(f"more than {EXPANDED_LIMIT} values once its aliases are expanded")
        return known

    size(document, 0)
