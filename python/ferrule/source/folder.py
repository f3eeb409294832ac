"""A folder of manifests as a source of cluster state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ferrule._engine import Problem
from ferrule.observe.health import Subsystem
from ferrule.observe.logs import kv
from ferrule.observe.status import Status
from ferrule.source.manifests.folder import FolderState, ManifestFolder
from ferrule.source.problems import ProblemBook
from ferrule.source.protocol import Source
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import Changes

log = logging.getLogger(__name__)

NAMES_SHOWN = 3
"""Maximum number of Nodes in a message about a wrong name."""


class FolderSource(Source):
    """Passes whole lists of changed kinds to the sync loop, one burst of edits at a time."""

    def __init__(
        self,
        path: Path,
        node: str,
        loop: SyncLoop,
        problems: ProblemBook,
        status: Status,
    ) -> None:
        self._folder = ManifestFolder(path)
        self._node = node
        self._loop = loop
        self._problems = problems
        self._readiness = status.readiness
        self._first = True
        self._nodes: frozenset[str] | None = None

    async def scan(self) -> None:
        """Reads the folder for the first time. Raises `InputError` if it is not a folder of manifests."""
        self._take(await self._folder.scan_finished())

    async def __aenter__(self) -> Self:
        """Reads the folder for the first time, as `scan` does."""
        await self.scan()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing: a folder keeps no resource open."""

    def tasks(self) -> Mapping[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Returns the task that follows the folder."""
        return {"manifests": self.follow}

    def problem_found(self, problem: Problem) -> None:
        """Does nothing: the log has the problem and the file."""

    def listen_failed(self, reason: str, message: str) -> None:
        """Does nothing: a folder cannot be notified."""

    def port_failed(self, namespace: str, name: str, port: int, reason: str) -> None:
        """Does nothing: a folder cannot be notified."""

    async def follow(self) -> None:
        """Follows the folder, for ever."""
        async for state in self._folder.follow():
            self._take(state)

    def _take(self, state: FolderState) -> None:
        self._problems.files(state.complaints, state.notes, state.origin)
        kinds = frozenset(state.lists) if self._first else state.changed
        # Existing files do not measure the latency of changes.
        changed_at = None if self._first else state.changed_at
        self._first = False
        if "Node" in kinds:
            self._check_name(state)
        self._readiness.release(Subsystem.LISTS)
        self._loop.submit(Changes({kind: state.lists[kind] for kind in kinds}, changed_at))

    def _check_name(self, state: FolderState) -> None:
        """Warns if no Node has this node's name: every endpoint would count as remote, and no rule would show why."""
        nodes = frozenset(manifest.name for manifest in state.manifests if manifest.kind == "Node")
        if nodes == self._nodes:
            return
        self._nodes = nodes
        reason = unknown_name(self._node, nodes)
        # A folder without any Node may still have correct node names in endpoints: logged as information.
        self._readiness.report(Subsystem.NODE, reason if nodes else None)
        if reason is not None:
            log.warning("No Node has this node's name", extra=kv(node=self._node, reason=reason))


def unknown_name(name: str, nodes: Collection[str]) -> str | None:
    """Returns the consequences of manifests without a Node of this name; None if they have one."""
    if name in nodes:
        return None
    first = ", ".join(sorted(nodes)[:NAMES_SHOWN]) + (", …" if len(nodes) > NAMES_SHOWN else "")
    known = f"the Nodes are {first}" if nodes else "there is no Node"
    return (
        f"no Node in the manifests is named {name} ({known}): only endpoints with that nodeName count as local; see "
        "--hostname-override"
    )
