"""Follows a folder of manifests.

The last valid content of a file counts: a file that becomes unreadable, half-written or invalid keeps its objects and
is reported; deleting a file deletes its objects.

A cut YAML file often parses, as fewer documents or a shorter name. So a changed file is taken over only when it is
finished: no process has it open for writing (`ferrule.file_writers`) and, where it became shorter or the kernel cannot
tell, its status was the same at two looks `SETTLE_SECONDS` apart. A program that closes the file halfway, waits longer
than that and opens it again has written two files as far as anyone can tell.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ferrule.errors import InputError
from ferrule.file_writers import read_with_writers
from ferrule.source.manifests.documents import Complaint, Manifest, Parsed, parse
from ferrule.types import KINDS, Kind

log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml", ".json")

DEBOUNCE_MS = 30
"""Milliseconds without an event after which a burst of edits ends. An editor's write-and-rename takes a few."""

RESCAN_MS = 2000
"""Interval of scans without events: inotify loses events when its queue overflows, and network file systems send
none."""

SETTLE_SECONDS = 0.5
"""Seconds for which a file must stay the same if its writers are unknown, or if it became shorter: most rewrites
begin with a truncation, and a script may open the file anew for each line."""

LOOK_AGAIN_SECONDS = 0.02
"""The first pause before an unfinished file is read again; each further one is twice as long, up to RESCAN_MS."""

PATIENCE_SECONDS = 5.0
"""Seconds after which an unfinished file is reported."""

FILE_LIMIT = 256 << 20
"""Maximum size of one file in bytes. A larger file is a mistake, and reading it could exhaust a small node."""


@dataclass(frozen=True, slots=True)
class FolderState:
    """The current state of the folder."""

    manifests: tuple[Manifest, ...]
    """Every object in effect."""
    lists: dict[Kind, bytes]
    """The objects as a JSON array per kind: the whole state, not a difference."""
    changed: frozenset[Kind]
    """Kinds whose array differs from the previous state's."""
    complaints: tuple[Complaint, ...]
    """Current complaints; objects of such files keep their last good state."""
    notes: tuple[Complaint, ...]
    origin: dict[str, str]
    """`Service shop/web` → `shop.yaml, document 2`."""
    changed_at: float | None
    """Newest modification time (wall clock, seconds) among files that changed; None if only deletions did."""
    unfinished: tuple[str, ...] = ()
    """Files that are being written: they have changed, and their previous content is still in effect."""


@dataclass(slots=True)
class _File:
    identity: tuple[int, ...]
    good: tuple[Manifest, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    notes: tuple[Complaint, ...] = ()


@dataclass(frozen=True, slots=True)
class _Unfinished:
    identity: tuple[int, ...]
    since: float
    """When a scan first found this identity."""
    begun: float
    """When the file was first found unfinished."""


class _NotFinishedError(Exception):
    """The file is being written, or may be."""


def require(path: Path) -> None:
    """Raises `InputError` for a path that does not exist."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")


def as_list(manifests: Iterable[Manifest], kind: Kind) -> bytes:
    """Returns the objects of one kind as the engine's JSON array."""
    return b"[" + b",".join(m.raw for m in manifests if m.kind == kind) + b"]"


@dataclass(slots=True)
class ManifestFolder:
    """Follows one folder (or one file). `scan` is synchronous and does all the work; `follow` decides when."""

    path: Path
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    read: Callable[[Path], tuple[os.stat_result, bytes, bool | None]] = read_with_writers
    _files: dict[str, _File] = field(default_factory=dict)
    _unfinished: dict[str, _Unfinished] = field(default_factory=dict)
    _lists: dict[Kind, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.path)

    def scan(self) -> FolderState:
        """Reads what changed since the last scan."""
        complaints: list[Complaint] = []
        newest: float | None = None
        try:
            names = self._names()
        except OSError as error:
            # Removing the folder does not mean that its Services should be removed: keep everything.
            complaints.append(Complaint(str(self.path), 0, "", f"cannot be listed: {error.strerror}; its objects stay"))
            names = list(self._files)
        for gone in self._files.keys() - set(names):
            del self._files[gone]
        for gone in self._unfinished.keys() - set(names):
            del self._unfinished[gone]
        for name in names:
            modified = self._read(name)
            if modified is not None:
                newest = max(newest or 0.0, modified)
        complaints += self._overdue()
        return self._state(complaints, newest)

    async def scan_finished(self) -> FolderState:
        """Reads the folder, waiting for files that are being written; for `PATIENCE_SECONDS` at most, then they are
        reported as complaints."""
        state = await asyncio.to_thread(self.scan)
        changed, newest = state.changed, state.changed_at
        pause = LOOK_AGAIN_SECONDS
        while state.unfinished and not self._overdue():
            await self.sleep(pause)
            pause *= 2
            state = await asyncio.to_thread(self.scan)
            changed |= state.changed
            newest = max((t for t in (newest, state.changed_at) if t is not None), default=None)
        return replace(state, changed=changed, changed_at=newest)

    def _overdue(self) -> list[Complaint]:
        now = self.clock()
        reason = "is still open for writing by another process; its objects stay as they were until it is closed"
        return [
            Complaint(name, 0, "", reason)
            for name, file in self._unfinished.items()
            if now - file.begun >= PATIENCE_SECONDS
        ]

    def _names(self) -> list[str]:
        if not self.path.is_dir():
            os.stat(self.path)  # noqa: PTH116 - for its OSError
            return [self.path.name]
        entries = os.listdir(self.path)  # noqa: PTH208 - names are what is wanted
        return sorted(
            n for n in entries if n.endswith(SUFFIXES) and not n.startswith(".") and not (self.path / n).is_dir()
        )

    def _read(self, name: str) -> float | None:
        """Reads one file. Returns its modification time if it changed."""
        path = self.path / name if self.path.is_dir() else self.path
        known = self._files.get(name)
        identity: tuple[int, ...]
        modified: float | None
        try:
            status = path.stat()
            identity = (status.st_mtime_ns, status.st_size, status.st_ino)
            if known is not None and known.identity == identity:
                self._unfinished.pop(name, None)
                return None
            if not stat.S_ISREG(status.st_mode):
                raise OSError(0, "is not a regular file")
            if status.st_size > FILE_LIMIT:
                raise OSError(0, f"is larger than {FILE_LIMIT >> 20} MiB")
            status, content = self._finished(name, path, known)
            identity, modified = (status.st_mtime_ns, status.st_size, status.st_ino), status.st_mtime
            parsed = parse(name, content)
        except _NotFinishedError:
            return None
        except OSError as error:
            identity, modified = (), None
            parsed = Parsed((), (Complaint(name, 0, "", f"cannot be read: {error.strerror}"),), ())
        self._unfinished.pop(name, None)
        good = (known.good if known else ()) if parsed.complaints else parsed.manifests
        self._files[name] = _File(identity, good, parsed.complaints, parsed.notes)
        return modified

    def _finished(self, name: str, path: Path, known: _File | None) -> tuple[os.stat_result, bytes]:
        """Returns the status and content of a file that is finished; raises `_NotFinishedError` for any other."""
        status, content, writing = self.read(path)
        identity = (status.st_mtime_ns, status.st_size, status.st_ino)
        now = self.clock()
        before = self._unfinished.get(name)
        since = before.since if before is not None and before.identity == identity else now
        same_file = known is not None and known.identity[2:] == identity[2:]
        shorter = same_file and known is not None and identity[1] < known.identity[1]
        settled = now - since >= SETTLE_SECONDS
        if writing or ((shorter or writing is None) and not settled):
            self._unfinished[name] = _Unfinished(identity, since, now if before is None else before.begun)
            raise _NotFinishedError
        return status, content

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
        unfinished = tuple(sorted(self._unfinished))
        return FolderState(
            tuple(manifests), lists, changed, tuple(complaints), tuple(notes), origin, newest, unfinished
        )

    async def follow(self) -> AsyncIterator[FolderState]:
        """Yields the state after each burst of edits, for ever. Call `scan` once before."""
        previous: tuple[Complaint, ...] | None = None
        pause = LOOK_AGAIN_SECONDS
        async for _ in self._occasions():
            while True:
                state = await asyncio.to_thread(self.scan)
                if state.changed or state.complaints != previous:
                    previous = state.complaints
                    yield state
                # Closing a file causes no event. The pauses grow, because a file may stay open for hours.
                if not state.unfinished or pause > RESCAN_MS / 1000:
                    break
                await self.sleep(pause)
                pause *= 2
            if not state.unfinished:
                pause = LOOK_AGAIN_SECONDS

    async def _occasions(self) -> AsyncIterator[None]:
        """Yields when to scan: after each burst of edits, and every `RESCAN_MS`."""
        # Imported here because `render` and `--once` never need it.
        from watchfiles import awatch  # noqa: PLC0415
        from watchfiles._rust_notify import WatchfilesRustInternalError  # noqa: PLC0415

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
                    yield
            except (OSError, WatchfilesRustInternalError):
                # The folder does not exist, or inotify has no watch left: scan at intervals until it is back.
                await self.sleep(RESCAN_MS / 1000)
                yield
