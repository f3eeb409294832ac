"""A changed configuration is detected, whatever way it was written; a half-written or invalid one is not used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ferrule.config.load import parse_config
from ferrule.config.watch import Look, Watch, changed, fingerprint, step
from ferrule.errors import ConfigError

HEAD = b"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
OLD, NEW = HEAD + b"mode: iptables\n", HEAD + b"mode: iptables\nhostnameOverride: node-7\n"

RUNNING = Watch(fingerprint(OLD))


def look(signature: int, content: bytes, *, being_written: bool = False) -> Look:
    return Look((signature,), fingerprint(content), being_written)


def check(content: bytes) -> object:
    return parse_config(content, "config.conf", strict=False)


def test_a_change_counts_at_the_second_equal_look() -> None:
    is_new, watch = step(RUNNING, look(1, NEW))
    assert not is_new
    assert step(watch, look(1, NEW))[0]
    assert not step(watch, look(2, HEAD))[0], "another content: the first look at it"


def test_a_missing_file_is_not_a_change() -> None:
    _, watch = step(RUNNING, look(1, NEW))
    assert step(watch, None) == (False, watch)


def test_equal_content_is_not_a_change_and_settles() -> None:
    _, watch = step(RUNNING, look(1, OLD))
    assert watch.settled == (1,)
    assert step(watch, look(1, OLD)) == (False, watch)


def test_a_file_that_is_being_written_is_waited_for() -> None:
    watch = RUNNING
    for _ in range(3):
        is_new, watch = step(watch, look(1, NEW, being_written=True))
        assert not is_new
    assert not step(watch, look(1, NEW))[0], "the first look at the closed file"


class Looks:
    """A `sleep` that runs one action between two polls, and ends the watch after the last one."""

    class EndError(Exception):
        """The watch slept after the last action: it saw no change."""

    def __init__(self, *actions: Callable[[], object]) -> None:
        self._left = list(actions)

    async def __call__(self, _: float) -> None:
        if not self._left:
            raise self.EndError
        self._left.pop(0)()


def nothing() -> None:
    """No action: two consecutive polls."""


def watch_file(
    path: Path, *actions: Callable[[], object], known: bytes = OLD, invalid: list[ConfigError] | None = None
) -> str | None:
    """Returns the reason, or None if the watch saw no change in a poll after each action."""
    invalid = [] if invalid is None else invalid
    try:
        return asyncio.run(changed(path, check, invalid.append, known=known, sleep=Looks(*actions)))
    except Looks.EndError:
        return None


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def rename(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.rename(path)


def delete_and_make(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def kubelet(path: Path, content: bytes) -> None:
    """Updates a mounted ConfigMap as kubelet does: a new folder, and `..data` is replaced in one step."""
    root = path.parent
    folder = root / f"..{len(list(root.iterdir()))}"
    folder.mkdir()
    (folder / path.name).write_bytes(content)
    link = root / "..data_tmp"
    link.symlink_to(folder.name)
    link.rename(root / "..data")
    if not path.is_symlink():
        path.symlink_to(f"..data/{path.name}")


@pytest.mark.parametrize("put", [write, rename, delete_and_make, kubelet])
def test_however_it_is_put_there(tmp_path: Path, put: Callable[[Path, bytes], None]) -> None:
    path = tmp_path / "config.conf"
    (kubelet if put is kubelet else write)(path, OLD)
    same = [lambda: put(path, OLD), nothing, nothing]
    assert watch_file(path, *same) is None, "the same content is not a change"
    reason = watch_file(path, *same, lambda: put(path, NEW), nothing, nothing)
    assert reason is not None
    assert str(path) in reason


def test_a_writer_that_pauses_at_every_byte_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    write(path, OLD)
    with path.open("wb", buffering=0) as file:
        steps: list[Callable[[], object]] = []
        for at in range(len(NEW)):
            # Two polls at each byte: equal, and still not finished.
            steps += [lambda at=at: file.write(NEW[at : at + 1]), nothing]  # type: ignore[misc]
        assert watch_file(path, *steps) is None
    assert path.read_bytes() == NEW
    assert watch_file(path, nothing) is not None


def test_an_invalid_configuration_is_reported_once_and_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    write(path, OLD)
    bad = HEAD + b"mode: [\n"
    invalid: list[ConfigError] = []
    assert watch_file(path, lambda: write(path, bad), *[nothing] * 5, invalid=invalid) is None
    assert [str(error).startswith("config.conf: ") for error in invalid] == [True], "once, with its place"
    assert watch_file(path, lambda: write(path, bad), *[nothing] * 3, lambda: write(path, NEW), nothing, nothing)


def test_a_deleted_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    write(path, OLD)
    assert watch_file(path, path.unlink, nothing, nothing) is None
    reason = watch_file(path, nothing, lambda: write(path, NEW), nothing, nothing)
    assert reason is not None
    assert "was changed" in reason


def test_what_changed_before_the_watch_began_counts(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    write(path, NEW)
    assert watch_file(path, nothing) is not None
