"""Tests the detection of files that are open for writing."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ferrule.file_writers import open_for_writing, read_with_writers


def test_a_closed_file_has_no_writer(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"whole")
    _, content, writing = read_with_writers(path)
    assert (content, writing) == (b"whole", False)


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
def test_a_writer_is_seen_until_it_closes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with path.open(mode):
        assert read_with_writers(path)[2] is True
    assert read_with_writers(path)[2] is False


def test_a_writer_in_another_process_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    code = "import sys; f = open(sys.argv[1], 'ab'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert read_with_writers(path)[2] is True
        writer.communicate()
    assert read_with_writers(path)[2] is False


def test_a_writable_mapping_counts(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 4096)
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    with mapping:
        assert read_with_writers(path)[2] is True
    assert read_with_writers(path)[2] is False


def test_no_lease_is_left_behind(tmp_path: Path) -> None:
    """A later writer is not blocked, and no signal reaches this process."""
    path = tmp_path / "f"
    path.write_bytes(b"x")
    received: list[int] = []
    before = {n: signal.signal(n, lambda n, _: received.append(n)) for n in (signal.SIGURG, signal.SIGIO)}
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert open_for_writing(descriptor) is False
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # EWOULDBLOCK where a lease is held
        finally:
            os.close(descriptor)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert received == []


def test_a_kernel_that_cannot_tell_says_so() -> None:
    reading, writing = os.pipe()
    try:
        assert open_for_writing(reading) is None, "no leases on pipes"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_fifo_does_not_block_and_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_with_writers(tmp_path / "none")
    os.mkfifo(tmp_path / "fifo")
    assert read_with_writers(tmp_path / "fifo")[1] == b""
