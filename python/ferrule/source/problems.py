"""Logs problems of cluster objects: each once when it appears and once when it is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from ferrule._engine import Problem
from ferrule.observe.logs import kv
from ferrule.source.manifests.documents import Complaint

log = logging.getLogger(__name__)


class ProblemBook:
    """The current problems. `on_new` (may be set later) receives every new problem of an object."""

    def __init__(self) -> None:
        self.on_new: Callable[[Problem], None] = lambda _: None
        self._complaints: Sequence[Complaint] = ()
        self._problems: Sequence[Problem] = ()
        self._origin: Mapping[str, str] = {}
        self._reported: dict[tuple[str, ...], dict[str, object]] = {}
        self._noted: set[Complaint] = set()

    @property
    def count(self) -> int:
        """Number of current problems."""
        return len(self._problems) + len(self._complaints)

    def files(self, complaints: Sequence[Complaint], notes: Iterable[Complaint], origin: Mapping[str, str]) -> None:
        """Sets the folder's current complaints; `origin` maps objects to files."""
        for note in notes:
            if note not in self._noted:
                log.info("Ignored", extra=kv(file=note.file, document=note.document, reason=note.reason))
        self._noted = set(notes)
        self._complaints, self._origin = complaints, origin
        self._report()

    def objects(self, problems: Sequence[Problem]) -> None:
        """Sets the engine's current problems."""
        self._problems = problems
        self._report()

    def _report(self) -> None:
        now: dict[tuple[str, ...], dict[str, object]] = {}
        fresh: list[Problem] = []
        for complaint in self._complaints:
            now["file", str(complaint)] = _pairs(complaint)
        for p in self._problems:
            # Called after every sync, when most problems are known already, so it does little work for those.
            key: tuple[str, ...] = ("object", p.object, p.field, p.value, p.reason, p.kind)
            known = self._reported.get(key)
            if known is None:
                fresh.append(p)
                known = dict(zip(("object", "field", "value", "reason", "cost"), key[1:], strict=True))
            file = self._origin.get(p.object)
            now[key] = known if file is None else known | {"file": file}
        for key in now.keys() - self._reported.keys():
            log.warning("Bad input", extra=kv(**now[key]))
        for key in self._reported.keys() - now.keys():
            log.info("Bad input is gone", extra=kv(**self._reported[key]))
        self._reported = now
        for p in fresh:
            self.on_new(p)


def _pairs(complaint: Complaint) -> dict[str, object]:
    return {
        "file": complaint.file,
        "document": complaint.document,
        "field": complaint.field,
        "reason": complaint.reason,
        "cost": "its objects keep their last good state",
    }
