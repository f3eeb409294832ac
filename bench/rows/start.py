"""Cold start and restart: process start → both families' first sync, by the daemon's own timestamp."""

from __future__ import annotations

import time

from bench import usage
from bench.ground import Setting
from bench.probe import Unfinished


def start(setting: Setting, patience: float) -> dict[str, float]:
    """Measures a cold start; the daemon runs afterwards. Raises `Unfinished` if it is killed before its first sync."""
    began, since = time.time(), time.monotonic()
    setting.proxy.start()
    process = setting.proxy.running
    peak = 0.0
    while True:
        peak = max(peak, usage.children_mib(process.pid))
        if not process.alive:
            raise RuntimeError(f"{setting.subject} ended:\n{process.tail()}")
        synced = [setting.proxy.last_sync(family) for family in ("IPv4", "IPv6")]
        passed = time.monotonic() - since
        if all(synced):
            break
        if passed > patience:
            setting.stop()
            raise Unfinished(patience, "no first sync")
        # Frequent at first; a scrape takes CPU time of the measured daemon.
        time.sleep(0.02 if passed < 3 else 0.1)
    # The gauge may already show a second sync; the observed time is then closer.
    seconds = min(max(synced) - began, passed)
    used = usage.cpu(process.pid)
    values = {
        "seconds": seconds,
        "CPU seconds": used.all,
        "CPU seconds own": used.own,
        "RSS MiB": usage.rss_mib(process.pid),
        "RSS peak MiB": usage.peak_mib(process.pid),
        "children peak MiB": peak,
    }
    return values | setting.check()


def restart(setting: Setting, patience: float) -> dict[str, float]:
    """Measures a start over the rules of the previous run. The daemon runs afterwards."""
    setting.stop()
    return start(setting, patience)
