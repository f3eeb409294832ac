"""Runs the daemon's permanent tasks until one of them ends or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ferrule.errors import BugError, FerruleError
from ferrule.process.shutdown import ORDERLY_SECONDS

Task = Callable[[], Coroutine[Any, Any, Any]]
"""Starts a task that never returns."""


async def supervise(tasks: Mapping[str, Task], stopping: Callable[[], None]) -> FerruleError:
    """Runs the tasks until this call is cancelled or one of them ends; then cancels the others. Returns why.

    `stopping` is called before the tasks are cancelled.
    """
    running = {asyncio.create_task(_endless(name, start()), name=name) for name, start in tasks.items()}
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping()
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=ORDERLY_SECONDS)
    task = done.pop()
    error = task.exception()
    if isinstance(error, FerruleError):
        return error
    failure = BugError(f"task {task.get_name()!r} failed: {error!r}")
    failure.__cause__ = error
    return failure


async def _endless(name: str, work: Coroutine[Any, Any, Any]) -> None:
    await work
    raise BugError(f"task {name!r} ended, which it never should")
