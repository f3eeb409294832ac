"""Log lines in kube-proxy's formats: klog text or JSON, on stderr unless the streams are split.

A message is a fixed English sentence. Everything from outside (object names, field values, tool output) is a quoted
key/value pair, so that no input can forge a line.

Verbosity is klog's: `log.info` is always shown, `log.log(verbose(4), …)` from `-v=4` on; `log.debug` is `verbose(2)`.
"""

from __future__ import annotations

import fnmatch
import io
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

import orjson

_LETTERS = {logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}

DEBUG_VERBOSITY = 2
"""The verbosity of `log.debug`: kube-proxy's own threshold between quiet and verbose."""

LIBRARIES_INFO, LIBRARIES_DEBUG = 4, 8
"""The verbosities from which on libraries log below warnings: client-go's levels for requests and for their bodies."""

BUFFER_LIMIT = 2**31
"""klog's maximum, against typing errors in the configuration."""


def kv(**pairs: object) -> dict[str, Any]:
    """Returns key/value pairs for `extra=`. The order is kept."""
    return {"kv": pairs}


def verbose(n: int) -> int:
    """Returns klog's V(n) as a level for `log.log`. 0 is info; higher values are less important."""
    if n <= 0:
        return logging.INFO
    return logging.INFO - 1 if n == 1 else max(logging.DEBUG + DEBUG_VERBOSITY - n, 1)


def verbosity_of(level: int) -> int:
    """Returns the `-v` from which on a line of this level is shown: the inverse of `verbose`."""
    if level >= logging.INFO:
        return 0
    return 1 if level > logging.DEBUG else logging.DEBUG + DEBUG_VERBOSITY - level


def _quote(value: object) -> str:
    """Quotes a value as JSON in plain ASCII, so that control characters never reach the terminal."""
    return json.dumps(value, default=str, separators=(",", ":"))


class KlogFormatter(logging.Formatter):
    """`I1025 00:15:15.525108    1 file.py:116] "msg" key="value"`."""

    def format(self, record: logging.LogRecord) -> str:
        """Implements the method of the base class."""
        stamp = datetime.fromtimestamp(record.created).strftime("%m%d %H:%M:%S.%f")
        letter = _LETTERS.get(record.levelno, "I")
        head = f"{letter}{stamp} {os.getpid():>7} {record.filename}:{record.lineno}]"
        pairs = "".join(f" {key}={_quote(value)}" for key, value in getattr(record, "kv", {}).items())
        text = f"{head} {json.dumps(record.getMessage())}{pairs}"
        return text if record.exc_info is None else f"{text}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the names and the order of kube-proxy."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record: `ts` in milliseconds since 1970; `caller` with its folder; `err` on errors, `v` on all
        others."""
        pairs: dict[str, object] = dict(getattr(record, "kv", {}))
        line: dict[str, object] = {
            "ts": round(record.created * 1000, 3),
            "caller": "/".join(record.pathname.rsplit("/", 2)[-2:]) + f":{record.lineno}",
            "msg": record.getMessage(),
        }
        if record.levelno < logging.ERROR:
            line["v"] = verbosity_of(record.levelno)
        elif "err" in pairs or record.exc_info:
            line["err"] = pairs.pop("err", None) or str(record.exc_info[1] if record.exc_info else "")
        # A pair must not overwrite the fields of the line itself.
        line |= {key if key not in line else f"{key}_": value for key, value in pairs.items()}
        if record.exc_info is not None:
            line["stacktrace"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:
            return json.dumps(line, default=str)  # a file name that is not UTF-8: slower, but logged


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The options `--logging-format`, `-v`, `--vmodule` and the stream options."""

    verbosity: int = 0
    as_json: bool = False
    vmodule: tuple[tuple[str, int], ...] = ()
    """(pattern, verbosity): the first matching pattern of a file counts, and never reduces verbosity."""
    split_stream: bool = False
    """Whether information goes to stdout, all else to stderr."""
    buffer_bytes: int = 0
    """Bytes of information that may be buffered, with split streams."""
    flush_seconds: float = 5.0
    """Seconds for which information may be buffered."""


def matches(pattern: str, path: str) -> bool:
    """Returns whether a pattern matches a file. It is compared with as many last parts of the path (without `.py`)
    as it has: `loop`, `sync/loop`, `sync/*` and `l[oO]op` all match `…/ferrule/sync/loop`."""
    wanted = pattern.strip("/").split("/")
    parts = path.split("/")[-len(wanted) :]
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


class VerbosityFilter(logging.Filter):
    """Passes a file's line if `-v` or its own `--vmodule` entry allows it. Warnings always pass."""

    def __init__(self, verbosity: int, vmodule: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self._verbosity = verbosity
        self._vmodule = vmodule
        self._of_file: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Implements the method of the base class."""
        least = verbosity_of(record.levelno)
        return least <= self._verbosity or least <= self._file(record.pathname)

    def _file(self, pathname: str) -> int:
        known = self._of_file.get(pathname)
        if known is None:
            path = pathname.removesuffix(".py")
            known = next((n for pattern, n in self._vmodule if matches(pattern, path)), 0)
            self._of_file[pathname] = known
        return known


class SplitHandler(logging.Handler):
    """Writes errors immediately to one stream, information to another with a buffer of up to `buffer_bytes`."""

    def __init__(self, info: IO[str], errors: IO[str], *, error_level: int, buffer_bytes: int = 0) -> None:
        super().__init__()
        self._info = info
        self._errors = errors
        self._error_level = error_level
        self._limit = buffer_bytes
        self._held = io.StringIO()
        self._held_bytes = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes whole lines only. An error first flushes the lines before it."""
        try:
            line = f"{self.format(record)}\n"
            size = len(line.encode())
            is_error = record.levelno >= self._error_level
            if is_error or self._held_bytes + size > self._limit:
                self.flush()
            if is_error or size > self._limit:
                stream = self._errors if is_error else self._info
                stream.write(line)
                stream.flush()
            else:
                self._held.write(line)
                self._held_bytes += size
        except Exception:
            # As in logging.StreamHandler: a failed write of a log line does not end the process.
            self.handleError(record)

    def flush(self) -> None:
        """Writes the buffered lines."""
        self.acquire()
        try:
            if self._held_bytes:
                self._info.write(self._held.getvalue())
                self._info.flush()
                self._held = io.StringIO()
                self._held_bytes = 0
        finally:
            self.release()


def set_up(options: LogOptions = LogOptions()) -> logging.Handler:
    """Configures logging for the process and returns the handler. Warnings of the `warnings` module are logged, too."""
    handler = _handler(options)
    handler.setFormatter(JsonFormatter() if options.as_json else KlogFormatter())
    vmodule = () if options.as_json else options.vmodule
    if vmodule:
        handler.addFilter(VerbosityFilter(options.verbosity, vmodule))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    most = max((options.verbosity, *(n for _, n in vmodule)))
    root.setLevel(
        logging.WARNING if most < LIBRARIES_INFO else logging.INFO if most < LIBRARIES_DEBUG else logging.DEBUG
    )
    logging.getLogger("ferrule").setLevel(verbose(most))
    logging.captureWarnings(True)
    return handler


def _handler(options: LogOptions) -> logging.Handler:
    if not options.split_stream:
        return logging.StreamHandler(sys.stderr)
    # As in klog: its JSON format has no warnings, only errors and information; its text format sends lines that begin
    # with I to stdout.
    split = SplitHandler(
        sys.stdout,
        sys.stderr,
        error_level=logging.ERROR if options.as_json else logging.WARNING,
        buffer_bytes=min(options.buffer_bytes, BUFFER_LIMIT),
    )
    if options.buffer_bytes > 0:
        threading.Thread(
            target=_flush_for_ever, args=(split, options.flush_seconds), name="log flush", daemon=True
        ).start()
    return split


def _flush_for_ever(handler: SplitHandler, seconds: float) -> None:
    tick = threading.Event()
    while not tick.wait(seconds):
        handler.flush()
