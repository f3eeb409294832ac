"""A list's single item is limited like a watch frame, and an item above the limit costs only its list."""

from __future__ import annotations

import json

import pytest

from ferrule._engine import Engine, EngineOptions, InputError, NotBegun
from ferrule.source.api.frames import FRAME_LIMIT
from ferrule.types import KINDS
from tests import objects


def item(name: str, length: int) -> bytes:
    """A Service of so many bytes, most of them in an annotation."""
    service = objects.service(name)
    service["metadata"]["annotations"] = {"x": ""}
    text = json.dumps(service).encode()
    head, tail = text.split(b'"x": "')
    return head + b'"x": "' + b"x" * (length - len(text)) + tail


def feed(engine: Engine, *items: bytes) -> None:
    engine.begin_list("Service")
    text = b'{"kind":"ServiceList","metadata":{"resourceVersion":"7"},"items":[' + b",".join(items) + b"]}"
    for at in range(0, len(text), 1 << 20):
        engine.feed_list("Service", text[at : at + (1 << 20)])
    engine.end_list("Service")


def services(engine: Engine) -> int:
    count: int = json.loads(engine.snapshot())["services"]
    return count


def test_an_item_has_the_limit_of_a_frame() -> None:
    engine = Engine(EngineOptions(node_name="node-1"))
    for kind in KINDS:
        engine.replace(kind, [b"[]"])
    feed(engine, item("web", 2_000), item("large", FRAME_LIMIT))
    assert services(engine) == 2

    with pytest.raises(InputError, match=r"^item 1 is longer than 67108864 bytes; it begins with .*huge"):
        feed(engine, item("new", 2_000), item("huge", FRAME_LIMIT + 1))
    with pytest.raises(NotBegun, match="no list of Service has begun"):
        engine.end_list("Service")
    assert services(engine) == 2
    assert engine.problems() == []

    feed(engine, item("new", 2_000))
    assert services(engine) == 1
