"""A file that is being written keeps its previous objects, wherever the writer pauses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from ferrule.source.manifests.folder import (
    PATIENCE_SECONDS,
    SETTLE_SECONDS,
    FolderState,
    ManifestFolder,
)


def service(name: str, address: str, port: int) -> dict[str, object]:
    return {"kind": "Service", "metadata": {"name": name}, "spec": {"clusterIP": address, "ports": [{"port": port}]}}


OLD = [service("web", "10.0.0.1", 80), service("webmail", "10.0.0.2", 8080), service("shop", "10.0.0.3", 443)]
NEW = [service("web", "10.0.0.1", 81), service("webmail", "10.0.0.2", 8080), service("shop", "10.0.0.33", 443)]

YAML_DOCUMENT = """kind: Service
metadata:
  name: {name}
spec:
  ports: [{{port: {port}}}]
  clusterIP: {address}
"""


def as_yaml(objects: list[dict[str, object]]) -> bytes:
    texts = []
    for item in objects:
        spec = orjson.loads(orjson.dumps(item["spec"]))
        name = orjson.loads(orjson.dumps(item["metadata"]))["name"]
        texts.append(YAML_DOCUMENT.format(name=name, port=spec["ports"][0]["port"], address=spec["clusterIP"]))
    return "---\n".join(texts).encode()


def as_json_lists(objects: list[dict[str, object]]) -> bytes:
    return orjson.dumps({"kind": "List", "items": objects})


def as_json_array(objects: list[dict[str, object]]) -> bytes:
    return orjson.dumps(objects)


FORMS = [("f.yaml", as_yaml), ("f.json", as_json_lists), ("f.json", as_json_array), ("f.yaml", as_json_lists)]


def held(state: FolderState) -> dict[str, object]:
    return {m.title: orjson.loads(m.raw)["spec"] for m in state.manifests}


def in_place(path: Path, content: bytes) -> Iterator[None]:
    """Truncates the file, and writes byte by byte."""
    with path.open("wb", buffering=0) as file:
        yield
        for byte in content:
            file.write(bytes((byte,)))
            yield


def over_the_old_content(path: Path, content: bytes) -> Iterator[None]:
    """Writes byte by byte from the beginning, and truncates the rest of the old content."""
    with path.open("r+b", buffering=0) as file:
        yield
        for byte in content:
            file.write(bytes((byte,)))
            yield
        file.truncate()
        yield


@pytest.mark.parametrize("writer", [in_place, over_the_old_content])
@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_writer_that_pauses_at_every_byte(tmp_path: Path, name: str, form, writer) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / name
    path.write_bytes(form(OLD))
    now = [0.0]
    folder = ManifestFolder(tmp_path, clock=lambda: now[0])
    before = held(folder.scan())
    assert len(before) == 3
    looks = 0
    for _ in writer(path, form(NEW)):
        # However long the pause is.
        for _ in range(2):
            assert held(folder.scan()) == before
            now[0] += 10 * SETTLE_SECONDS
        looks += 1
    assert looks > len(form(NEW))
    now[0] += SETTLE_SECONDS
    folder.scan()
    now[0] += SETTLE_SECONDS
    after = held(folder.scan())
    assert after != before
    assert list(after.values()) == [item["spec"] for item in NEW]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_where_the_kernel_cannot_tell_the_file_must_stay_the_same(tmp_path: Path, name: str, form) -> None:  # type: ignore[no-untyped-def]
    """Simulates a network file system without leases. Pauses shorter than `SETTLE_SECONDS` are not detected."""
    path = tmp_path / name
    path.write_bytes(form(OLD))
    now = [0.0]

    def read(path: Path) -> tuple[os.stat_result, bytes, bool | None]:
        return path.stat(), path.read_bytes(), None

    folder = ManifestFolder(tmp_path, clock=lambda: now[0], read=read)
    assert folder.scan().unfinished == (name,)
    now[0] += SETTLE_SECONDS
    before = held(folder.scan())
    assert len(before) == 3
    content = form(NEW)
    for at in range(len(content) + 1):
        path.write_bytes(content[:at])
        os.utime(path, ns=(at, at))
        for _ in range(2):
            assert held(folder.scan()) == before
            now[0] += SETTLE_SECONDS / 3
    now[0] += SETTLE_SECONDS
    assert list(held(folder.scan()).values()) == [item["spec"] for item in NEW]


def test_a_file_that_never_ends_does_not_hold_up_others_and_is_reported(tmp_path: Path) -> None:
    now = [0.0]
    folder = ManifestFolder(tmp_path, clock=lambda: now[0])
    with (tmp_path / "a.yaml").open("wb", buffering=0) as endless:
        for n in range(5):
            endless.write(as_yaml(OLD[:1]) + b"---\n")
            (tmp_path / "b.json").write_bytes(as_json_array(NEW[: n % 3 + 1]))
            folder.scan()
            now[0] += PATIENCE_SECONDS / 4
            state = folder.scan()
            assert len(held(state)) == n % 3 + 1
        [complaint] = state.complaints
        assert str(complaint).startswith("a.yaml: ")
        assert "open for writing" in complaint.reason
    now[0] += SETTLE_SECONDS
    complaints = folder.scan().complaints
    assert {c.file for c in complaints} == {"a.yaml", "b.json"}
    assert not any("open for writing" in c.reason for c in complaints), "closed: it counts, each Service given again"


def test_a_start_waits_for_a_writer_and_then_reports_it(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    now = [0.0]
    file = path.open("wb", buffering=0)

    async def closing(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 0.3 and not file.closed:
            file.write(as_json_array(OLD))
            file.close()

    folder = ManifestFolder(tmp_path, clock=lambda: now[0], sleep=closing)
    state = asyncio.run(folder.scan_finished())
    assert len(state.manifests) == 3
    assert "Service" in state.changed

    async def waiting(seconds: float) -> None:
        now[0] += seconds

    other = ManifestFolder(tmp_path, clock=lambda: now[0], sleep=waiting)
    with path.open("ab"):
        state = asyncio.run(other.scan_finished())
    assert state.manifests == ()
    assert "open for writing" in state.complaints[0].reason


def test_an_ordinary_edit_counts_at_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(as_yaml(OLD))
    folder = ManifestFolder(tmp_path, clock=lambda: 0.0)
    folder.scan()
    path.write_bytes(as_yaml(NEW) + b"# a comment\n")
    state = folder.scan()
    assert state.unfinished == ()
    assert list(held(state).values()) == [item["spec"] for item in NEW]
    # A rename brings a finished file, even a shorter one.
    (tmp_path / "new").write_bytes(as_yaml(NEW[:1]))
    (tmp_path / "new").rename(path)
    assert len(folder.scan().manifests) == 1
