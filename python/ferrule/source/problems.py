"""Logs problems of cluster objects: each once when it appears and once when it is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from ferrule._engine import Problem, ProblemChanges
from ferrule.observe.logs import kv
from ferrule.source.manifests.documents import Complaint

log = logging.getLogger(__name__)


class ProblemBook:
    """The current problems. `on_new` (may be set later) receives every new problem of an object."""

    def __init__(self) -> None:
        self.on_new: Callable[[Problem], None] = lambda _: None
        self._complaints: dict[str, Complaint] = {}
        self._standing = 0
        self._origin: Mapping[str, str] = {}
        self._files: dict[tuple[str, str, str, str, str], str] = {}
        self._noted: set[Complaint] = set()

    @property
    def count(self) -> int:
        """Number of current problems."""
        return self._standing + len(self._complaints)

    def files(self, complaints: Sequence[Complaint], notes: Iterable[Complaint], origin: Mapping[str, str]) -> None:
        """Sets the folder's current complaints; `origin` maps objects to files."""
        for note in notes:
            if note not in self._noted:
                log.info("Ignored", extra=kv(file=note.file, document=note.document, reason=note.reason))
        self._noted = set(notes)
        self._origin = origin
        now = {str(complaint): complaint for complaint in complaints}
        for text in now.keys() - self._complaints.keys():
            log.warning("Bad input", extra=kv(**_complaint(now[text])))
        for text in self._complaints.keys() - now.keys():
            log.info("Bad input is gone", extra=kv(**_complaint(self._complaints[text])))
        self._complaints = now

    def objects(self, changes: ProblemChanges) -> None:
        """Takes what changed of the engine's problems."""
        self._standing = changes.standing
        for problem in changes.appeared:
            file = self._origin.get(problem.object)
            if file is not None:
                self._files[_key(problem)] = file
            log.warning("Bad input", extra=kv(**_problem(problem, file)))
            self.on_new(problem)
        for problem in changes.gone:
            file = self._files.pop(_key(problem), None)
            log.info("Bad input is gone", extra=kv(**_problem(problem, file)))


def _key(problem: Problem) -> tuple[str, str, str, str, str]:
    return problem.object, problem.field, problem.value, problem.reason, problem.kind


def _problem(problem: Problem, file: str | None) -> dict[str, object]:
    pairs: dict[str, object] = dict(zip(("object", "field", "value", "reason", "cost"), _key(problem), strict=True))
    return pairs if file is None else pairs | {"file": file}


def _complaint(complaint: Complaint) -> dict[str, object]:
    return {
        "file": complaint.file,
        "document": complaint.document,
        "field": complaint.field,
        "reason": complaint.reason,
        "cost": "its objects keep their last good state",
    }
