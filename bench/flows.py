"""Sends first packets and opens connections; runs inside a node's namespace, with a request in JSON on stdin.

python -S bench/flows.py        answers `{"first p50 µs": …, "first connections a second": …, …}`
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from typing import Any

WARM = 50
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, so that neither side keeps the connection."""


def first_packets(ask: dict[str, Any]) -> dict[str, float]:
    """Sends first packets round robin over the targets, so that disturbances affect all alike. Each has a new source
    port: a new flow."""
    taken: dict[str, list[float]] = {name: [] for name in ask["udp"]}
    port = 20_000
    for turn in range(WARM + ask["flows"]):
        for name, target in ask["udp"].items():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
                port = port + 1 if port < 60_000 else 20_000
                channel.bind((ask["source"], port))
                where = tuple(target)
                begun = time.perf_counter()
                channel.sendto(b"x", where)
                passed = time.perf_counter() - begun
            if turn >= WARM:
                taken[name].append(passed)
    found = {}
    for name, times in taken.items():
        times.sort()
        found[f"{name} p50 µs"] = 1e6 * times[len(times) // 2]
        found[f"{name} p99 µs"] = 1e6 * times[len(times) * 99 // 100]
    return found


def connections(ask: dict[str, Any]) -> dict[str, float]:
    """Connects, accepts, closes; round robin. In one thread, to exclude the scheduler."""
    listeners = []
    for port in ask["listen"]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(128)
        listeners.append(listener)
    taken = dict.fromkeys(ask["tcp"], 0.0)
    port = 20_000
    for turn in range(WARM + ask["connections"]):
        for name, target in ask["tcp"].items():
            port = port + 1 if port < 60_000 else 20_000
            begun = time.perf_counter()
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.settimeout(2.0)
                client.bind((ask["source"], port))
                client.connect(tuple(target))
                ready = select.select(listeners, [], [], 2.0)[0]
                server, _ = ready[0].accept()
            server.close()
            if turn >= WARM:
                taken[name] += time.perf_counter() - begun
    return {f"{name} connections a second": ask["connections"] / seconds for name, seconds in taken.items()}


if __name__ == "__main__":
    question = json.load(sys.stdin)
    print(json.dumps(first_packets(question) | connections(question)))
