"""A changed configuration is noticed however it was put there; the same content put there again is not a change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ferrule.config.watch import Seen, changed, changed_content, fingerprint

OLD, NEW = b"mode: iptables\n", b"mode: nftables\n"


def never() -> bytes:
    raise AssertionError("read although nothing moved")


def test_the_content_is_only_read_where_something_moved() -> None:
    seen = Seen((1, 2), fingerprint(OLD))
    assert changed_content(seen, (1, 2), never) == (False, seen)
    assert changed_content(seen, None, never) == (False, seen)


def test_equal_content_under_another_signature_is_no_change() -> None:
    is_new, seen = changed_content(Seen((1,), fingerprint(OLD)), (2,), lambda: OLD)
    assert (is_new, seen.signature) == (False, (2,))


def test_a_file_that_vanishes_between_two_looks_is_asked_again() -> None:
    before = Seen((1,), fingerprint(OLD))
    assert changed_content(before, (2,), lambda: None) == (False, before)
    assert changed_content(before, (2,), lambda: NEW)[0] is True


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
    """As kubelet updates a mounted ConfigMap: a new folder, and `..data` is swapped to it in one step."""
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

    async def scenario() -> str:
        watching = asyncio.create_task(changed(path, interval=0.001))
        await asyncio.sleep(0.02)
        put(path, OLD)
        done, _ = await asyncio.wait({watching}, timeout=0.05)
        assert not done, "the same content is not a change"
        put(path, NEW)
        return await watching

    assert str(path) in asyncio.run(scenario())


def test_a_deleted_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_bytes(OLD)

    async def scenario() -> str:
        watching = asyncio.create_task(changed(path, interval=0.001))
        await asyncio.sleep(0.02)
        path.unlink()
        done, _ = await asyncio.wait({watching}, timeout=0.05)
        assert not done
        path.write_bytes(NEW)
        return await watching

    assert "was changed" in asyncio.run(scenario())


def test_what_changed_before_the_watch_began_counts(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_bytes(NEW)
    assert "was changed" in asyncio.run(changed(path, known=OLD))
