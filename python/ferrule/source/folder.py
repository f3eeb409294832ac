"""Cluster state from a folder of manifests."""

from __future__ import annotations

from pathlib import Path

from ferrule.observe.health import Subsystem
from ferrule.observe.status import Status
from ferrule.source.api import own_node
from ferrule.source.manifests.folder import FolderState, ManifestFolder
from ferrule.source.problems import ProblemBook
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import Changes


class FolderSource:
    """Whole lists of what changed, a burst of edits at a time."""

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
        self._health = status.health
        self._readiness = status.readiness
        self._first = True

    async def scan(self) -> None:
        """The first look. Raises `InputError` for a folder that is none."""
        self._take(await self._folder.scan_finished())

    async def follow(self) -> None:
        """For ever."""
        async for state in self._folder.follow():
            self._take(state)

    def _take(self, state: FolderState) -> None:
        self._problems.files(state.complaints, state.notes, state.origin)
        kinds = frozenset(state.lists) if self._first else state.changed
        # Files that were there before us say nothing about how long a change takes.
        changed_at = None if self._first else state.changed_at
        self._first = False
        if "Node" in kinds:
            # A folder without our Node says nothing against it.
            found = own_node.from_items(state.lists["Node"], self._node)
            self._health.set_node_eligible(found is None or found.eligible)
        self._readiness.release(Subsystem.LISTS)
        self._loop.submit(Changes({kind: state.lists[kind] for kind in kinds}, changed_at))
