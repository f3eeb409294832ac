"""The only module that starts processes.

Rules of the house: a fixed argv, never a shell; the program's absolute path resolved once; a clean environment; input
from a memfd (the caller's, where it is large) and output to one, so that a text of any size neither deadlocks a pipe
nor keeps the event loop busy; a time limit after which the whole process group is killed; a session of its own, so that
Ctrl-C in a terminal reaches us and not a restore halfway through its work. What each run took is told to whoever asks
(`Runner.observers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from ferrule.errors import DataplaneError, FailureKind
from ferrule.process.child import Child, Usage
from ferrule.process.completed import Completed
from ferrule.process.memory_file import memory_file

SEARCH_PATH = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin")
"""Where system tools live; looked at before $PATH, so that a stray program earlier in it is not run as root."""

STDERR_LIMIT = 64 * 1024
"""Bytes of stderr that are kept. A tool that complains about each of 100,000 lines says nothing new after these."""

INLINE_BYTES = 256 * 1024
"""Output up to this size is read on the event loop."""

REAP_SECONDS = 5.0
"""How long a killed child may take to die before we stop waiting (it may sit in the kernel)."""


@dataclass(frozen=True, slots=True)
class ToolRun:
    """A process that was started and is gone."""

    tool: str
    """`iptables-nft-restore`, say."""
    exit_code: int | None
    """None: killed by us, over its time or no longer wanted."""
    usage: Usage


@cache
def resolve(program: str) -> str | None:
    """Absolute path of a program, or None when it is not installed."""
    path = os.pathsep.join((*SEARCH_PATH, os.environ.get("PATH", "")))
    return shutil.which(program, path=path)


def _environment() -> dict[str, str]:
    """Nothing that changes what iptables does (XTABLES_*), which libraries it loads (LD_*) or its language."""
    return {"PATH": os.pathsep.join(SEARCH_PATH), "LC_ALL": "C"}


STACK_BYTES = 256 << 20
"""Stack for the tools. `iptables-nft-save` sorts its chains by recursion: with the usual 8 MiB it dies of a
segmentation fault somewhere above 100,000 chains (30,000 Services of 4 endpoints need about 64 MiB)."""


@cache
def _deep_stacks() -> None:
    """Children inherit the limit; our own threads were given theirs at the start and are not touched."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs programs. `prefix` goes before every command line (`ip netns exec NAME`)."""

    prefix: tuple[str, ...] = ()
    observers: list[Callable[[ToolRun], None]] = field(default_factory=list, compare=False)
    """Each hears of every run once it is over."""

    async def run(self, argv: Sequence[str], *, stdin: bytes | int = b"", timeout: float = 30.0) -> Completed:  # noqa: ASYNC109 - killing the group is the point
        """Run to the end. `stdin` is bytes, or the descriptor of a file to read from its position.

        Raises `DataplaneError` of kind MISSING or HUNG; an exit code other than 0 is the caller's to judge. Cancelling
        kills the child and waits for it.
        """
        command = (*self.prefix, *argv)
        program = resolve(command[0])
        if program is None or (self.prefix and resolve(argv[0]) is None):
            missing = command[0] if program is None else argv[0]
            raise DataplaneError(FailureKind.MISSING, command, stderr=f"{missing} is not installed")
        _deep_stacks()
        with memory_file("ferrule-stdout", b"") as output:
            child = await _start(program, command, stdin, output)
            exit_code: int | None = None
            try:
                async with asyncio.timeout(timeout):
                    stderr = await _read_head(child.stderr)
                    exit_code = await child.wait()
            except TimeoutError as error:
                await _kill(child)
                raise DataplaneError(FailureKind.HUNG, command, stderr=f"no end after {timeout:g} s: killed") from error
            except BaseException:
                await _kill(child)
                raise
            finally:
                child.close()
                self._tell(argv[0], exit_code, child)
            return Completed(command, exit_code, await _contents(output), stderr.decode(errors="replace"))

    def _tell(self, program: str, exit_code: int | None, child: Child) -> None:
        if child.usage is not None:
            ran = ToolRun(program.rpartition("/")[2], exit_code, child.usage)
            for observer in self.observers:
                observer(ran)


async def _start(program: str, command: tuple[str, ...], stdin: bytes | int, output: int) -> Child:
    try:
        with contextlib.nullcontext(stdin) if isinstance(stdin, int) else memory_file("ferrule-stdin", stdin) as source:
            return await Child.start(program, command[1:], stdin=source, stdout=output, env=_environment())
    except FileNotFoundError as error:
        raise DataplaneError(FailureKind.MISSING, command, stderr=str(error)) from error
    except OSError as error:
        raise DataplaneError(FailureKind.UNKNOWN, command, stderr=str(error)) from error


async def _contents(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if size <= INLINE_BYTES:
        return os.pread(descriptor, size, 0)
    # Rules of 30,000 Services are 40 MB: the copy is made in a thread, without the GIL.
    return await asyncio.to_thread(os.pread, descriptor, size, 0)


async def _read_head(stream: asyncio.StreamReader) -> bytes:
    """The first `STDERR_LIMIT` bytes; the rest is read and dropped, so that the child never blocks on it."""
    kept = bytearray()
    while chunk := await stream.read(STDERR_LIMIT):
        kept += chunk[: STDERR_LIMIT - len(kept)]
    return bytes(kept)


async def _kill(child: Child) -> None:
    child.kill()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), REAP_SECONDS)
