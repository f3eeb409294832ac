"""The interface of sources of cluster state."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from ferrule._engine import Problem


class Source(Protocol):
    """Passes the objects of a cluster on to the sync loop, and reports problems to the cluster.

    Used as `async with` around its tasks.
    """

    async def __aenter__(self) -> Self:
        """Prepares the source; the first state may be passed on. Raises `FerruleError` if it cannot be used at all."""

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes what was opened."""

    def tasks(self) -> Mapping[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Returns the permanent tasks by name."""

    def problem_found(self, problem: Problem) -> None:
        """Reports a new problem of an object."""

    def listen_failed(self, reason: str, message: str) -> None:
        """Reports that a port of this process could not be opened. `reason` is one of kube-proxy's Event reasons."""

    def port_failed(self, namespace: str, name: str, port: int, reason: str) -> None:
        """Reports that the healthCheckNodePort of a Service could not be opened."""
