"""The event loops that the asyncio code must work on: uvloop, asyncio's own, and that in debug mode.

Debug mode refuses calls from the wrong thread, and says where a coroutine that was never awaited comes from. How long a
callback takes depends on the machine, so slow ones are not reported; `test_loop_stays_free` covers them by cause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import uvloop


def _debugging() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    loop.set_debug(True)
    loop.slow_callback_duration = float("inf")
    return loop


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "asyncio-debug": _debugging,
    "uvloop": uvloop.new_event_loop,
}


class Complaints(logging.Handler):
    """Collects what event loops report because no caller receives it: exceptions never retrieved, dropped tasks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter().format(record)
        # A TLS handshake that the client broke off, which only debug mode reports, on the side of the test's server.
        if not text.startswith("Error on transport creation for incoming connection"):
            self.messages.append(text)
