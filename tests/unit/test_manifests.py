"""Tests files and folders of manifests: what is accepted, what is rejected, and what stays when a file becomes
invalid."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from ferrule.errors import InputError
from ferrule.file_writers import read_with_writers
from ferrule.source.manifests.documents import parse
from ferrule.source.manifests.folder import SETTLE_SECONDS, ManifestFolder

SERVICE = "kind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n"
SLICE = "kind: EndpointSlice\nmetadata: {name: web-1, namespace: shop}\naddressType: IPv4\n"


def complaint(text: str | bytes, file: str = "f.yaml") -> str:
    parsed = parse(file, text.encode() if isinstance(text, str) else text)
    assert parsed.complaints, parsed
    return str(parsed.complaints[0])


def test_several_documents_lists_and_arrays() -> None:
    listed = (
        "kind: List\nitems:\n- " + SERVICE.replace("\n", "\n  ").strip() + "\n- kind: Node\n  metadata: {name: n}\n"
    )
    service_list = "kind: ServiceList\nitems:\n- metadata: {name: x}\n  spec: {}\n"
    parsed = parse("f.yaml", f"# hello\n---\n{SERVICE}---\n---\n{SLICE}---\n{listed}---\n{service_list}".encode())
    assert parsed.complaints == ()
    titles = ["Service default/web", "EndpointSlice shop/web-1", "Service default/web", "Node n", "Service default/x"]
    assert [m.title for m in parsed.manifests] == titles
    assert parse("f.json", b"[%s]" % orjson.dumps({"kind": "Node", "metadata": {"name": "n"}})).manifests[0].name == "n"


def test_scalars_are_json_not_yaml_1_1() -> None:
    labels_text = "{a: yes, b: on, c: 2024-01-01, d: 010, e: 1_000, f: 0x10, 80: x}"
    text = f"kind: Service\nmetadata: {{name: web, labels: {labels_text}}}\nspec: {{n: 1, t: true, z: null, f: 1.5}}\n"
    labels = orjson.loads(parse("f.yaml", text.encode()).manifests[0].raw)["metadata"]["labels"]
    assert labels == {"a": "yes", "b": "on", "c": "2024-01-01", "d": "010", "e": "1_000", "f": "0x10", "80": "x"}
    assert orjson.loads(parse("f.yaml", text.encode()).manifests[0].raw)["spec"] == {
        "n": 1,
        "t": True,
        "z": None,
        "f": 1.5,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "f.yaml, document 1: line"),
        (SERVICE + "---\na: {", "document 2"),
        ("kind: Service\nkind: Service\n", "'kind' is given twice"),
        ("kind: Service\nmetadata: {name: 7}\nspec: {}\n", "metadata.name: is missing or not a string"),
        ("kind: Service\nmetadata: {name: a, namespace: 7}\nspec: {}\n", "metadata.namespace: is not a string"),
        ("metadata: {name: a}\n", "kind: is missing"),
        ("kind: Service\nmetadata: {name: a}\n", "spec: is missing: Service a looks half-written"),
        ("kind: EndpointSlice\nmetadata: {name: a}\n", "addressType: is missing"),
        ("- 7\n", "[0]: is not an object but a number"),
        ("kind: List\nitems: [x]\n", "items[0]: is not an object but a string"),
        ("just text", "is not an object but a string"),
        ("? [a]\n: b\n", "a key must be a string"),
        ("\tkind: x\n", "not YAML"),
        ("!!python/object:os.system {}\n", "not YAML"),
    ],
)
def test_bad_documents_are_located(text: str, words: str) -> None:
    assert words in complaint(text)


def test_bad_json_and_bad_bytes() -> None:
    assert "not JSON" in complaint('{"kind": ', "f.json")
    assert "line 2" in complaint('{\n"kind" 1}', "f.json")
    assert "not YAML" in complaint(b"\xff\xfe\x00kind")


def test_a_yaml_bomb_is_defused() -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    assert "once its aliases are expanded" in complaint("l0: &l0 [x, x]\n" + levels)


def test_unknown_kinds_are_noted_once_and_cost_nothing() -> None:
    parsed = parse("f.yaml", (SERVICE + "---\nkind: Pod\n---\nkind: Pod\n---\nkind: Ingress\n").encode())
    assert len(parsed.manifests) == 1
    assert [n.reason for n in parsed.notes] == [
        "kind Pod makes no rules: ignored",
        "kind Ingress makes no rules: ignored",
    ]


def names(folder: ManifestFolder) -> list[str]:
    return [m.title for m in folder.scan().manifests]


def test_a_folder_is_the_union_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(SLICE)
    (tmp_path / "a.yml").write_text(SERVICE)
    (tmp_path / "notes.txt").write_text("a: [")
    (tmp_path / ".hidden.yaml").write_text("a: [")
    (tmp_path / "dir.yaml").mkdir()
    folder = ManifestFolder(tmp_path)
    state = folder.scan()
    assert [m.title for m in state.manifests] == ["Service default/web", "EndpointSlice shop/web-1"]
    assert state.changed == {"Service", "EndpointSlice", "Node"}
    assert state.origin["Service default/web"] == "a.yml, document 1"
    assert folder.scan().changed == frozenset()
    (tmp_path / "a.yml").unlink()
    state = folder.scan()
    assert state.changed == {"Service"}
    assert state.lists["Service"] == b"[]"
    assert state.changed_at is None, "a deletion has no time of writing"


def test_a_bad_file_keeps_its_last_good_state(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(SERVICE)
    now = [0.0]
    folder = ManifestFolder(tmp_path, clock=lambda: now[0])
    assert names(folder) == ["Service default/web"]
    for bad in ("kind: [", "", SERVICE[:30], "kind: Service\nmetadata: {name: web}\n"):
        file.write_text(bad)
        folder.scan()
        now[0] += SETTLE_SECONDS  # it became shorter: the next equal look settles that
        state = folder.scan()
        expected = [] if bad == "" else ["Service default/web"]
        assert [m.title for m in state.manifests] == expected, bad
        assert bool(state.complaints) is (bad != "")
        file.write_text(SERVICE + "# mended\n")
        assert names(folder) == ["Service default/web"]


def test_an_unreadable_file_and_a_dangling_link(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(SERVICE)
    folder = ManifestFolder(tmp_path)
    folder.scan()
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    state = folder.scan()
    assert [m.title for m in state.manifests] == ["Service default/web"]
    assert "cannot be read" in state.complaints[0].reason


def test_configmap_style_swaps_are_seen(tmp_path: Path) -> None:
    for version, text in (("v1", SERVICE), ("v2", SERVICE.replace("web", "shop"))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    folder = ManifestFolder(tmp_path)
    assert names(folder) == ["Service default/web"]
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert names(folder) == ["Service default/shop"]


def test_the_same_object_twice_first_file_counts(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE)
    (tmp_path / "b.yaml").write_text(SERVICE.replace("10.0.0.1", "10.0.0.2"))
    state = ManifestFolder(tmp_path).scan()
    assert b"10.0.0.1" in state.lists["Service"]
    assert b"10.0.0.2" not in state.lists["Service"]
    assert (
        str(state.complaints[0])
        == "b.yaml, document 1: metadata.name: Service default/web is in a.yaml, document 1 already, which counts"
    )


def test_a_folder_that_vanishes_keeps_everything(tmp_path: Path) -> None:
    inner = tmp_path / "m"
    inner.mkdir()
    (inner / "a.yaml").write_text(SERVICE)
    folder = ManifestFolder(inner)
    folder.scan()
    inner.rename(tmp_path / "gone")
    state = folder.scan()
    assert [m.title for m in state.manifests] == ["Service default/web"]
    assert any("its objects stay" in c.reason for c in state.complaints)
    with pytest.raises(InputError, match="no such file or folder"):
        ManifestFolder(inner)


def test_only_changed_files_are_read(tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"{n}.yaml").write_text(SERVICE.replace("web", f"web{n}"))
    folder = ManifestFolder(tmp_path)
    folder.scan()
    read: list[str] = []

    def reading(path: Path) -> tuple[os.stat_result, bytes, bool | None]:
        read.append(path.name)
        return read_with_writers(path)

    folder.read = reading
    (tmp_path / "3.yaml").write_text(SERVICE.replace("web", "other"))
    os.utime(tmp_path / "3.yaml", ns=(1, 1))
    folder.scan()
    assert read == ["3.yaml"]
