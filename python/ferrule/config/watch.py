"""Waits until a configuration file has changed.

The file is polled once a second instead of watched with inotify: a ConfigMap is updated by replacing a symlink two
folders above, an editor replaces the file, and inotify may be exhausted or (on network file systems) silent. One `stat`
per second has no measurable cost.

A change counts when four things are true:

1. the content differs from the running configuration's;
2. no process has the file open for writing, as far as the kernel can tell (`ferrule.file_writers`);
3. two consecutive polls read the same content, so that a script that writes in several steps is not read in between;
4. it is a valid configuration. An invalid one is reported once, and the running one stays.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ferrule.errors import ConfigError
from ferrule.file_writers import read_with_writers

INTERVAL_SECONDS = 1.0

Signature = tuple[int, ...]
"""The fields of `stat` that change with the file. They include the time of the last status change, which no program
can set back."""


@dataclass(frozen=True, slots=True)
class Look:
    """The file at the time of one poll."""

    signature: Signature
    digest: bytes
    being_written: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """The state between polls."""

    running: bytes
    """Digest of the configuration in use; empty if it was unreadable."""
    last: Look | None = None
    """The last poll that found the file."""
    settled: Signature | None = None
    """The file with this signature was evaluated: equal to the running configuration, or invalid."""


def step(watch: Watch, look: Look | None) -> tuple[bool, Watch]:
    """Returns whether the poll shows a finished file with another content, and the next state. Pure.

    `None`: no readable file, which is not a change: during a replacement, every file is missing.
    """
    if look is None or look.signature == watch.settled:
        return False, watch
    if look.being_written:
        return False, replace(watch, last=None)
    if look.digest == watch.running:
        return False, replace(watch, last=look, settled=look.signature)
    return watch.last == look, replace(watch, last=look)


def fingerprint(content: bytes) -> bytes:
    """Returns a digest of `content`: a configuration need not stay in memory."""
    return hashlib.sha256(content).digest()


async def changed(
    path: Path,
    check: Callable[[bytes], object],
    on_invalid: Callable[[ConfigError], None],
    *,
    known: bytes | None = None,
    interval: float = INTERVAL_SECONDS,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> str:
    """Returns the reason as soon as the file holds another valid configuration.

    `check` raises `ConfigError` for an invalid content, which `on_invalid` receives once. `known` is the content in
    use; without it, the file is read now. A file deleted and created again with the same content has not changed. Never
    returns otherwise; raises only `CancelledError`.
    """
    if known is None:
        known = await asyncio.to_thread(_content, path)
    watch = Watch(b"" if known is None else fingerprint(known))
    while True:
        look, content = await asyncio.to_thread(_look, path, watch)
        is_new, watch = step(watch, look)
        if is_new and look is not None:
            try:
                await asyncio.to_thread(check, content)
            except ConfigError as error:
                # The same content is not reported again until the file changes.
                watch = replace(watch, settled=look.signature)
                on_invalid(error)
            else:
                return (
                    f"the configuration file {path} was changed: ending, so that the next start uses what it says now"
                )
        await sleep(interval)


def _look(path: Path, watch: Watch) -> tuple[Look | None, bytes]:
    """Polls the file. The content is read only if the signature is unknown."""
    try:
        signature = _signature(path)
        if signature == watch.settled:
            return Look(signature, b""), b""
        _, content, writing = read_with_writers(path)
        unchanged = _signature(path) == signature
    except OSError:
        return None, b""
    return Look(signature, fingerprint(content), bool(writing) or not unchanged), content


def _signature(path: Path) -> Signature:
    s = path.stat()
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
