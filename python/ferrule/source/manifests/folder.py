"""A folder of manifests as cluster state, followed live.

What a file last said when it was sound is what counts: a file that becomes unreadable, half-written or invalid keeps
its objects and is reported; a file that is deleted takes its objects with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ferrule.errors import InputError
from ferrule.source.manifests.documents import Complaint, Manifest, Parsed, parse
from ferrule.types import KINDS, Kind

log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml", ".json")

DEBOUNCE_MS = 30
"""A burst of edits ends when nothing happened for this long. An editor's write-and-rename takes a few ms."""

RESCAN_MS = 2000
"""Look anyway this often: inotify loses events when its queue overflows, and network file systems send none."""

FILE_LIMIT = 256 << 20
"""Bytes of one file. More is a mistake, and reading it would be the end of a small node."""


@dataclass(frozen=True, slots=True)
class FolderState:
    """What the folder says now."""

    manifests: tuple[Manifest, ...]
    """Every object that counts."""
    lists: dict[Kind, bytes]
    """The same as a JSON array a kind: the whole state, not a difference."""
    changed: frozenset[Kind]
    """Kinds whose array differs from the previous state's."""
    complaints: tuple[Complaint, ...]
    """What is wrong now; objects of such files keep their last good state."""
    notes: tuple[Complaint, ...]
    origin: dict[str, str]
    """`Service shop/web` → `shop.yaml, document 2`."""
    changed_at: float | None
    """Newest modification time (wall clock, seconds) among files that changed; None if only deletions did."""


@dataclass(slots=True)
class _File:
    identity: tuple[int, ...]
    good: tuple[Manifest, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    notes: tuple[Complaint, ...] = ()


def as_list(manifests: Iterable[Manifest], kind: Kind) -> bytes:
    """The objects of one kind as the JSON array that the engine takes."""
    return b"[" + b",".join(m.raw for m in manifests if m.kind == kind) + b"]"


@dataclass(slots=True)
class ManifestFolder:
    """Follows one folder (or one file). `scan` is synchronous and does all the work; `follow` says when."""

    path: Path
    _files: dict[str, _File] = field(default_factory=dict)
    _lists: dict[Kind, bytes] = field(default_factory=dict)
    _gone: bool = False

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise InputError(f"{self.path}: no such file or folder")

    def scan(self) -> FolderState:
        """Read what changed since the last scan."""
        complaints: list[Complaint] = []
        newest: float | None = None
        try:
            names = self._names()
        except OSError as error:
            # Whoever removed the folder did not say that its Services shall go: keep everything.
            complaints.append(Complaint(str(self.path), 0, "", f"cannot be listed: {error.strerror}; its objects stay"))
            names = list(self._files)
        for gone in self._files.keys() - set(names):
            del self._files[gone]
        for name in names:
            modified = self._read(name)
            if modified is not None:
                newest = max(newest or 0.0, modified)
        return self._state(complaints, newest)

    def _names(self) -> list[str]:
        if not self.path.is_dir():
            os.stat(self.path)  # noqa: PTH116 - for its OSError
            return [self.path.name]
        entries = os.listdir(self.path)  # noqa: PTH208 - names are what is wanted
        return sorted(
            n for n in entries if n.endswith(SUFFIXES) and not n.startswith(".") and not (self.path / n).is_dir()
        )

    def _read(self, name: str) -> float | None:
        """Take over one file; its modification time if it changed."""
        path = self.path / name if self.path.is_dir() else self.path
        known = self._files.get(name)
        identity: tuple[int, ...]
        try:
            status = path.stat()
            identity = (status.st_mtime_ns, status.st_size, status.st_ino)
            if known is not None and known.identity == identity:
                return None
            if not stat.S_ISREG(status.st_mode):
                raise OSError(0, "is no regular file")
            if status.st_size > FILE_LIMIT:
                raise OSError(0, f"is larger than {FILE_LIMIT >> 20} MiB")
            parsed = parse(name, path.read_bytes())
        except OSError as error:
            identity, modified = (), None
            parsed = Parsed((), (Complaint(name, 0, "", f"cannot be read: {error.strerror}"),), ())
        else:
            modified = status.st_mtime
        good = (known.good if known else ()) if parsed.complaints else parsed.manifests
        self._files[name] = _File(identity, good, parsed.complaints, parsed.notes)
        return modified

    def _state(self, complaints: list[Complaint], newest: float | None) -> FolderState:
        manifests: list[Manifest] = []
        origin: dict[str, str] = {}
        notes: list[Complaint] = []
        for name in sorted(self._files):
            file = self._files[name]
            complaints += file.complaints
            notes += file.notes
            for manifest in file.good:
                first = origin.setdefault(manifest.title, f"{name}, document {manifest.document}")
                if first != f"{name}, document {manifest.document}":
                    reason = f"{manifest.title} is in {first} already, which counts"
                    complaints.append(Complaint(name, manifest.document, "metadata.name", reason))
                    continue
                manifests.append(manifest)
        lists = {kind: as_list(manifests, kind) for kind in KINDS}
        changed = frozenset(kind for kind in KINDS if self._lists.get(kind) != lists[kind])
        self._lists = lists
        return FolderState(tuple(manifests), lists, changed, tuple(complaints), tuple(notes), origin, newest)

    async def follow(self) -> AsyncIterator[FolderState]:
        """The state after each burst of edits, for ever. Call `scan` once before."""
        # Imported here: `render` and `--once` never need it.
        from watchfiles import awatch  # noqa: PLC0415
        from watchfiles._rust_notify import WatchfilesRustInternalError  # noqa: PLC0415

        previous: tuple[Complaint, ...] | None = None
        while True:
            try:
                async for _ in awatch(
                    self.path,
                    watch_filter=None,
                    recursive=False,
                    debounce=10 * DEBOUNCE_MS,
                    step=DEBOUNCE_MS,
                    rust_timeout=RESCAN_MS,
                    yield_on_timeout=True,
                ):
                    state = await asyncio.to_thread(self.scan)
                    if state.changed or state.complaints != previous:
                        previous = state.complaints
                        yield state
            except (OSError, WatchfilesRustInternalError):
                # The folder itself is gone, or inotify has no watch left: look by the clock until it is back.
                await asyncio.sleep(RESCAN_MS / 1000)
                state = await asyncio.to_thread(self.scan)
                if state.changed or state.complaints != previous:
                    previous = state.complaints
                    yield state
