"""Profiling (enableProfiling): stacks, CPU and memory profiles. Go's paths, Python's data, plain text.

One profile runs at a time, for at most a minute, and nothing stays enabled.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from types import FrameType

from ferrule.serve.http import NOT_FOUND, Handler, Request, Response

SECONDS_MOST = 60.0
SECONDS_DEFAULT = 10.0
SAMPLES_A_SECOND = 100
LINES_OF_HEAP = 40
FRAMES_OF_HEAP = 8

_INDEX = """/debug/pprof/

goroutine          stacks of all threads and all asyncio tasks
profile?seconds=N  where threads spend their time: collapsed stacks with counts, for a flame graph
heap?seconds=N     memory allocated in that time and not freed, by line (slows down the process)
"""


def profiling_handler() -> Handler:
    """Returns the handler below /debug/pprof."""
    busy = asyncio.Lock()

    async def handle(request: Request) -> Response:
        what = request.path.removeprefix("/debug/pprof").strip("/")
        if what == "":
            return Response(_INDEX.encode())
        if what == "goroutine":
            return Response(stacks().encode())
        if what not in ("profile", "heap"):
            return NOT_FOUND
        try:
            seconds = float(request.query.get("seconds", (str(SECONDS_DEFAULT),))[-1])
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= SECONDS_MOST:
            return Response(f"seconds: more than 0, at most {SECONDS_MOST:g}\n".encode(), status=400)
        if busy.locked():
            return Response(b"another profile is being taken\n", status=409)
        async with busy:
            text = await (_profile(seconds) if what == "profile" else _heap(seconds))
        return Response(text.encode())

    return handle


def stacks() -> str:
    """Returns the stacks of all threads and tasks. Call it on the event loop."""
    out = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        out.write(f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}\n")
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        out.write(f"task {task.get_name()}\n")
        task.print_stack(file=out)
        out.write("\n")
    return out.getvalue()


async def _profile(seconds: float) -> str:
    counts = await asyncio.to_thread(_sample, seconds)
    return "".join(f"{stack} {count}\n" for stack, count in counts.most_common())


def _sample(seconds: float) -> Counter[str]:
    counts: Counter[str] = Counter()
    me, until = threading.get_ident(), time.monotonic() + seconds
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    while time.monotonic() < until:
        for ident, frame in sys._current_frames().items():
            if ident != me:
                counts[f"{names.get(ident, ident)};{_collapsed(frame)}"] += 1
        time.sleep(1 / SAMPLES_A_SECOND)
    return counts


def _collapsed(frame: FrameType | None) -> str:
    parts = []
    while frame is not None:
        parts.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return ";".join(reversed(parts))


async def _heap(seconds: float) -> str:
    # Tracing may be enabled permanently (PYTHONTRACEMALLOC) and must then stay enabled.
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start(FRAMES_OF_HEAP)
    try:
        await asyncio.sleep(seconds)
        snapshot = await asyncio.to_thread(tracemalloc.take_snapshot)
    finally:
        if ours:
            tracemalloc.stop()
    statistics = await asyncio.to_thread(snapshot.statistics, "lineno")
    held = sum(statistic.size for statistic in statistics)
    lines = [f"{held} bytes in {sum(s.count for s in statistics)} blocks allocated in {seconds:g} s are held\n"]
    lines += [f"{s.size:>10} {s.count:>8} {s.traceback}\n" for s in statistics[:LINES_OF_HEAP]]
    return "".join(lines)
