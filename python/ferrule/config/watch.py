"""Wait until a configuration file says something else.

By looking once a second, not with inotify: a ConfigMap is updated by swapping a symlink two folders up, an editor
replaces the file, and inotify may be used up or (on network file systems) silent. One `stat` a second costs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INTERVAL_SECONDS = 1.0

Signature = tuple[int, ...]
"""What of `stat` changes when a file does. The time of the last status change is in it: no program can set it back."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The file at one moment."""

    signature: Signature | None = None
    """None: nothing readable was there."""
    digest: bytes = b""


def changed_content(before: Seen, signature: Signature | None, read: Callable[[], bytes | None]) -> tuple[bool, Seen]:
    """Whether the content is another than `before`, and what to compare with next time. Pure but for `read`, which is
    asked only where the signature differs, and gives None for a file that is gone again.

    A file that is missing, or cannot be read for now, has not changed: half-way through being replaced, every file is.
    """
    if signature is None or signature == before.signature:
        return False, before
    content = read()
    if content is None:
        return False, before
    digest = fingerprint(content)
    return digest != before.digest, Seen(signature, digest)


def fingerprint(content: bytes) -> bytes:
    """Short and safe to keep: a configuration need not stay in memory."""
    return hashlib.sha256(content).digest()


async def changed(path: Path, *, known: bytes | None = None, interval: float = INTERVAL_SECONDS) -> str:
    """Returns the reason as soon as the file's content is not what it was.

    `known` is the content in use; without it, the file is read now. A file deleted and made again with the same content
    has not changed. Never returns otherwise; raises nothing but `CancelledError`.
    """
    if known is None:
        known = await asyncio.to_thread(_read, path)
    seen = Seen(None, b"" if known is None else fingerprint(known))
    while True:
        is_new, seen = await asyncio.to_thread(_look, path, seen)
        if is_new:
            return f"the configuration file {path} was changed: ending, so that the next start uses what it says now"
        await asyncio.sleep(interval)


def _look(path: Path, seen: Seen) -> tuple[bool, Seen]:
    return changed_content(seen, _signature(path), lambda: _read(path))


def _signature(path: Path) -> Signature | None:
    try:
        s = path.stat()
    except OSError:
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
