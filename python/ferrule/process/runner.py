"""Runs programs to completion.

Conventions: a fixed argv, never a shell; the program's absolute path resolved once; a clean environment; input from a
memfd (the caller's, if it is large) and output to one, so that a text of any size neither deadlocks a pipe nor keeps
the event loop busy; a time limit after which the whole process group is killed; a separate session, so that Ctrl-C in a
terminal does not interrupt a restore. `Runner.observers` are notified of each run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from ferrule.errors import DataplaneError, FailureKind
from ferrule.process.child import Child, Usage
from ferrule.process.completed import Completed
from ferrule.process.memory_file import memory_file

SEARCH_PATH = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin")
"""Folders of system tools, searched before $PATH, so that another program earlier in it is not run as root."""

STDERR_LIMIT = 64 * 1024
"""Bytes of stderr that are kept. A tool that reports 100,000 lines adds nothing new after these."""

INLINE_BYTES = 256 * 1024
"""Output up to this size is read on the event loop."""

REAP_SECONDS = 5.0
"""Seconds to wait for the death of a killed child, which may be inside the kernel."""


@dataclass(frozen=True, slots=True)
class ToolRun:
    """A finished run of a process."""

    tool: str
    """For example `iptables-nft-restore`."""
    exit_code: int | None
    """None if ferrule killed it, after its time limit or a cancellation."""
    usage: Usage


@cache
def resolve(program: str) -> str | None:
    """Returns the absolute path of a program, or None if it is not installed."""
    path = os.pathsep.join((*SEARCH_PATH, os.environ.get("PATH", "")))
    return shutil.which(program, path=path)


def _environment() -> dict[str, str]:
    """Returns an environment without variables that change the behaviour of iptables (XTABLES_*), its libraries
    (LD_*) or its language."""
    return {"PATH": os.pathsep.join(SEARCH_PATH), "LC_ALL": "C"}


STACK_BYTES = 256 << 20
"""Stack for the tools. `iptables-nft-save` sorts its chains by recursion: with the usual 8 MiB it dies of a
segmentation fault somewhere above 100,000 chains (30,000 Services of 4 endpoints need about 64 MiB)."""


@cache
def _deep_stacks() -> None:
    """Raises the stack limit, which children inherit; existing threads are not affected."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs programs. `prefix` precedes every command line (`ip netns exec NAME`)."""

    prefix: tuple[str, ...] = ()
    observers: list[Callable[[ToolRun], None]] = field(default_factory=list, compare=False)
    """Called with every finished run."""

    async def run(self, argv: Sequence[str], *, stdin: bytes | int = b"", timeout: float = 30.0) -> Completed:  # noqa: ASYNC109 - killing the group is the point
        """Runs a program to its end. `stdin` is bytes, or the descriptor of a file to read from its position.

        Raises `DataplaneError` of kind MISSING or HUNG; the caller evaluates the exit code. Cancellation kills the
        child and waits for it.
        """
        command = (*self.prefix, *argv)
        program = resolve(command[0])
        if program is None or (self.prefix and resolve(argv[0]) is None):
            missing = command[0] if program is None else argv[0]
            raise DataplaneError(FailureKind.MISSING, command, stderr=f"{missing} is not installed")
        _deep_stacks()
        with _output(command) as output:
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


@contextlib.contextmanager
def _output(command: tuple[str, ...]) -> Iterator[int]:
    """Yields a file for the program's output. Raises `DataplaneError` if there is none, for example EMFILE."""
    with contextlib.ExitStack() as stack:
        try:
            output = stack.enter_context(memory_file("ferrule-stdout"))
        except OSError as error:
            raise DataplaneError(FailureKind.UNKNOWN, command, stderr=str(error)) from error
        yield output


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
    # Rules of 30,000 Services are 40 MB: they are copied in a thread, without the GIL.
    return await asyncio.to_thread(os.pread, descriptor, size, 0)


async def _read_head(stream: asyncio.StreamReader) -> bytes:
    """Returns the first `STDERR_LIMIT` bytes; the rest is read and dropped, so that the child never blocks."""
    kept = bytearray()
    while chunk := await stream.read(STDERR_LIMIT):
        kept += chunk[: STDERR_LIMIT - len(kept)]
    return bytes(kept)


async def _kill(child: Child) -> None:
    child.kill()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), REAP_SECONDS)
