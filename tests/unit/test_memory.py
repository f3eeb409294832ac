"""Large freed blocks are returned to the host, whatever was freed before."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from ferrule.host import memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
MIB = 1 << 20

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def touched(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block

if sys.argv[1] == "apart" and not memory.keep_large_apart():
    sys.exit(77)
libc.free(touched(24 * MIB))  # from here on glibc would carve such blocks out of its heap
before = resident()
blocks = [touched(4 * MIB) for _ in range(10)]
above = touched(100_000)  # small, lives on, and above the others if they are in the heap
for block in blocks:
    libc.free(block)
print(resident() - before)
"""


def _left(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this libc has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_large_blocks_go_back_when_they_are_freed() -> None:
    left, usual = _left("apart"), _left("usual")
    assert left < 4 << 20
    # Without it the test would not show anything.
    assert usual > 20 << 20
