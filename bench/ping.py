"""Sends requests to one address repeatedly and prints each change of the responding Pod; runs inside a client's
namespace.

python -S bench/ping.py ADDRESS PORT      `NAME MONOTONIC_SECONDS` a line, until stdin closes
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time


def main(address: str, port: int) -> None:
    last = ""
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            with socket.create_connection((address, port), 1.0) as channel:
                channel.settimeout(1.0)
                channel.sendall(b"?\n")
                name = json.loads(channel.recv(400))["pod"]
                answered = time.monotonic()
        except (OSError, ValueError):
            name, answered = "none", time.monotonic()
        if name != last:
            last = name
            print(name, answered, flush=True)
        time.sleep(0.001)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
