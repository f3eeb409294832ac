"""The program that runs in every Pod of the lab: a TCP and UDP server that reports the client's address, and a client.

Started as `python -S pod.py serve NAME PORT…` and `python -S pod.py ask`; imports the standard library only, so that a
dozen of them cost little.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

CONCURRENT = 32
"""Maximum number of concurrent connections of a client."""

LOST = 20.0
"""Seconds without an answer after which a connection counts as lost. A segment is sent again after 1, 3 and 7."""

# ---------------------------------------------------------------- server


def _answer(name: str, local: Any, peer: Any) -> bytes:
    return json.dumps({"pod": name, "local": local[:2], "peer": peer[:2]}).encode() + b"\n"


async def serve(name: str, ports: list[int]) -> None:
    """Responds to every TCP connection and datagram on both families; prints a line once it listens."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                # "?" requests the Pod's name; anything else is a stream's heartbeat and is echoed.
                answer = _answer(name, writer.get_extra_info("sockname"), writer.get_extra_info("peername"))
                writer.write(answer if line == b"?\n" else line)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def datagram(channel: socket.socket) -> None:
        _, peer = channel.recvfrom(4096)
        channel.sendto(_answer(name, channel.getsockname(), peer), peer)

    loop = asyncio.get_running_loop()
    for port in ports:
        for host in ("0.0.0.0", "::"):
            await asyncio.start_server(connection, host, port)
        # One socket for both families.
        channel = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        channel.bind(("::", port))
        loop.add_reader(channel, datagram, channel)
    print("ready", flush=True)
    await asyncio.Event().wait()


# ---------------------------------------------------------------- client


async def _tcp(host: str, port: int, timeout: float, source: str | None) -> dict[str, Any]:
    local = (source, 0) if source else None
    # time: the limit is the question's, or `LOST`
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, local_addr=local), timeout)
    try:
        writer.write(b"?\n")
        line = await asyncio.wait_for(reader.readline(), timeout)  # time: as above
        if not line:
            raise ConnectionResetError
        return dict(json.loads(line))
    finally:
        writer.close()


async def _udp(host: str, port: int, timeout: float, source: str | None) -> dict[str, Any]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        if source:
            channel.bind((source, 0))
        # Connected, so that an ICMP error is reported as ECONNREFUSED.
        await loop.sock_connect(channel, (host, port))
        await loop.sock_sendall(channel, b"?")
        return dict(json.loads(await asyncio.wait_for(loop.sock_recv(channel, 4096), timeout)))  # time: as above


async def _one(protocol: str, host: str, port: int, timeout: float, source: str | None) -> dict[str, Any]:
    started = time.monotonic()
    try:
        answer = await (_tcp if protocol == "tcp" else _udp)(host, port, timeout, source)
    except TimeoutError:
        answer = {"error": "timeout"}
    except ConnectionRefusedError:
        answer = {"error": "refused"}
    except OSError as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    return answer | {"seconds": time.monotonic() - started}


async def ask(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Sends `count` independent requests, each from a new source port."""
    gate = asyncio.Semaphore(CONCURRENT)

    async def gated() -> dict[str, Any]:
        async with gate:
            return await _one(
                question["protocol"], question["host"], question["port"], question["timeout"], question.get("source")
            )

    return await asyncio.gather(*(gated() for _ in range(question["count"])))


async def _answer_until_closed(stdin: asyncio.StreamReader, count: Callable[[], int]) -> None:
    """Prints a count for each line of stdin."""
    while await stdin.readline():
        print(count(), flush=True)


async def stream(host: str, port: int) -> dict[str, Any]:
    """Opens one connection that exchanges a line every 20 ms until stdin closes; reports whether it broke.

    Each line on stdin is answered with the number of exchanges.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stop), sys.stdin)
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), LOST)  # time: see there
    print("open", flush=True)
    beats, broken = 0, None
    ended = asyncio.ensure_future(_answer_until_closed(stop, lambda: beats))
    while not ended.done() and broken is None:
        try:
            writer.write(f"{beats}\n".encode())
            # time: see there
            if await asyncio.wait_for(reader.readline(), LOST) != f"{beats}\n".encode():
                broken = "closed by the other side"
            beats += 1
            await asyncio.sleep(0.02)  # time: the rate of the traffic
        except (OSError, TimeoutError) as error:
            broken = f"{type(error).__name__}: {error}"
    return {"beats": beats, "broken": broken}


async def knock(host: str, port: int, rate: float, protocol: str = "tcp") -> dict[str, Any]:
    """Opens new connections (or sends datagrams, each from a new port) at `rate` per second until stdin closes;
    counts failures. Each line on stdin is answered with the number of finished connections.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stop), sys.stdin)
    print("open", flush=True)
    tasks: list[asyncio.Future[dict[str, Any]]] = []
    ended = asyncio.ensure_future(_answer_until_closed(stop, lambda: sum(task.done() for task in tasks)))
    due = loop.time()
    while not ended.done():
        tasks.append(asyncio.ensure_future(_one(protocol, host, port, LOST, None)))
        # Scheduled by the clock, because pauses would reduce the rate on a busy machine.
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))  # time: the rate of the traffic
    answers = await asyncio.gather(*tasks)
    errors = [a["error"] for a in answers if "error" in a]
    return {"connections": len(answers), "errors": errors}


def main(argv: list[str]) -> None:
    """Runs the server or a client, by the arguments."""
    command, *rest = argv
    if command == "serve":
        asyncio.run(serve(rest[0], [int(p) for p in rest[1:]]))
    elif command == "ask":
        questions = json.loads(sys.stdin.readline())

        async def all_of_them() -> list[list[dict[str, Any]]]:
            return [await ask(q) for q in questions]

        print(json.dumps(asyncio.run(all_of_them())), flush=True)
    elif command == "stream":
        print(json.dumps(asyncio.run(stream(rest[0], int(rest[1])))), flush=True)
    elif command == "knock":
        print(json.dumps(asyncio.run(knock(rest[0], int(rest[1]), float(rest[2]), *rest[3:]))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
