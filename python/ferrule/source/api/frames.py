"""Splits a watch's bytes at line ends. Pure."""

from __future__ import annotations

FRAME_LIMIT = 64 << 20
"""Maximum size of one frame in bytes. etcd rejects objects above 1.5 MiB (a few MiB with a raised limit); a longer
line is not an object but an attack on this process's memory."""


class FrameTooLarge(ValueError):
    """A line that does not end within the limit."""


class FrameCutter:
    """Buffers the bytes after the last line end; never more than `limit` bytes."""

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    @property
    def held(self) -> int:
        """Number of buffered bytes of an incomplete frame."""
        return self._held

    def feed(self, chunk: bytes) -> bytes:
        """Returns the frames that this chunk completes, concatenated; empty if it completes none."""
        end = chunk.rfind(b"\n") + 1
        if end == 0:
            self._hold(chunk)
            return b""
        whole = chunk[:end] if not self._parts else b"".join((*self._parts, chunk[:end]))
        self._parts.clear()
        self._held = 0
        if end < len(chunk):
            self._hold(chunk[end:])
        return whole

    def _hold(self, part: bytes) -> None:
        # Parts are joined once, when the line ends: appending to one buffer would copy a 5 MiB object eighty times.
        self._held += len(part)
        if self._held > self._limit:
            raise FrameTooLarge(f"a watch frame is longer than {self._limit} bytes")
        self._parts.append(part)
