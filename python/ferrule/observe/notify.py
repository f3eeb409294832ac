"""Notifies systemd of readiness, status, liveness and the end (sd_notify(3)). Does nothing without systemd.

The protocol is a datagram to a socket named in the environment; forty lines here are less than a dependency.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping

from ferrule.observe.logs import kv

log = logging.getLogger(__name__)


class Notifier:
    """Sends one datagram per notification. Never raises and never waits: a missing supervisor must not affect the
    daemon."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._silenced = False
        self.watchdog_seconds = _watchdog_seconds(environ)
        """Seconds for which systemd waits for a keep-alive; None without a watchdog."""

    def ready(self, status: str = "") -> None:
        """Reports readiness. Repeating it is harmless."""
        self._send(f"READY=1\nSTATUS={_line(status)}" if status else "READY=1")

    def status(self, text: str) -> None:
        """Sets the line in `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def stopping(self) -> None:
        """Reports that the daemon is stopping."""
        self._send("STOPPING=1")

    async def watch(self, alive: Callable[[], bool] = lambda: True) -> None:
        """Sends a keep-alive at half the watchdog interval from the event loop, for ever, while `alive` returns true.

        It is sent from the event loop on purpose: a daemon whose loop hangs stops sending and is restarted.
        """
        if self.watchdog_seconds is None or not self._address:
            await asyncio.Event().wait()
            return
        while True:
            if alive():
                self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds / 2)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A leading @ represents the zero byte of Linux' abstract names.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(text.encode(), address)
        except OSError as error:
            if not self._silenced:
                self._silenced = True
                log.warning("Cannot reach the supervisor", extra=kv(socket=self._address, err=str(error)))
        else:
            self._silenced = False


def _line(text: str) -> str:
    """Returns text without line breaks: fields are lines, and external text must not start a second one."""
    return " ".join(text.split())


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        if microseconds > 0:
            return microseconds / 1e6
    return None
