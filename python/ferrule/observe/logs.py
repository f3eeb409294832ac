"""Log lines as kube-proxy's users know them: klog text or JSON, on stderr only.

A message is a fixed English sentence; everything that comes from outside (object names, field values, tool output)
travels as key/value and is quoted, so that no input can forge a line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

_LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


def kv(**pairs: object) -> dict[str, Any]:
    """Key/values for `extra=`. Order is kept."""
    return {"kv": pairs}


def _quote(value: object) -> str:
    """JSON quoting for everything but numbers and booleans; control characters never reach the terminal."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value)
    return orjson.dumps(value, default=str).decode()


class KlogFormatter(logging.Formatter):
    """`I1025 00:15:15.525108    1 file.py:116] "msg" key="value"`."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        stamp = datetime.fromtimestamp(record.created).strftime("%m%d %H:%M:%S.%f")
        letter = _LETTERS.get(record.levelno, "I")
        head = f"{letter}{stamp} {os.getpid():>7} {record.filename}:{record.lineno}]"
        pairs = "".join(f" {key}={_quote(value)}" for key, value in getattr(record, "kv", {}).items())
        text = f"{head} {json.dumps(record.getMessage())}{pairs}"
        return text if record.exc_info is None else f"{text}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with klog's field names."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "caller": f"{record.filename}:{record.lineno}",
            "msg": record.getMessage(),
        }
        if record.levelno >= logging.ERROR:
            line["err"] = ""
        else:
            line["v"] = 0 if record.levelno > logging.DEBUG else 2
        line |= getattr(record, "kv", {})
        if record.exc_info is not None:
            line["stacktrace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


DEBUG_VERBOSITY = 2
"""From `-v=2` on, debug lines are shown: kube-proxy's own line between quiet and talkative."""


def set_up(verbosity: int = 0, *, as_json: bool = False) -> None:
    """Configure the root logger. Warnings of the `warnings` module are logged, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else KlogFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO)
    # They have nothing to say to an operator at our debug level.
    for noisy in ("asyncio", "watchfiles"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
