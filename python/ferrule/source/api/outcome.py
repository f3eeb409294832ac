"""Failures of requests to the API server, classified once: callers use `Cause` and status, never message text."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import orjson

from ferrule.errors import FerruleError


class Cause(enum.Enum):
    """The part that failed."""

    CREDENTIALS = "credentials"  # a local file or the exec plugin: the node's fault, not the server's
    UNRESOLVED = "unresolved"  # the server's name has no address
    REFUSED = "refused"  # no process listens there
    UNREACHABLE = "unreachable"  # no route, or no answer to the first packet
    TLS = "tls"  # the certificate is not trusted, or the handshake failed
    TIMEOUT = "timeout"  # connected, then silence
    BROKEN = "broken"  # the connection ended in the middle of a response
    CONTENT = "content"  # a response that is not the API's: HTML from a proxy, a wrong type
    STATUS = "status"  # the API server rejected the request; see `status`


@dataclass
class ApiError(FerruleError):
    """A failed request."""

    cause: Cause
    server: str
    detail: str
    status: int = 0
    """HTTP status; 0 without a response."""
    reason: str = ""
    """Status.reason of the response, e.g. Expired, Forbidden."""
    retry_after: float | None = None
    """Retry-After of the response in seconds."""
    version_too_large: bool = False
    """Whether the server's cache is older than the requested version."""

    def __str__(self) -> str:
        code = f" ({self.status})" if self.status else ""
        return f"{self.server}: {self.cause.value}{code}: {self.detail}"

    @property
    def expired(self) -> bool:
        """Returns whether the resource version is too old for the server."""
        return self.status == 410 or self.reason in ("Expired", "Gone")


TEXT_LIMIT = 300
"""Maximum number of quoted characters of a response that is not the API's."""


def from_answer(server: str, status: int, body: bytes, retry_after: str | None) -> ApiError:
    """Returns the error for a response other than 2xx; `body` may be a Status object, HTML, or truncated."""
    message, reason, too_large, wait = "", "", False, _seconds(retry_after)
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        decoded = None
    if isinstance(decoded, dict):
        message, reason = str(decoded.get("message") or ""), str(decoded.get("reason") or "")
        details = decoded.get("details")
        if isinstance(details, dict):
            causes = details.get("causes")
            too_large = isinstance(causes, list) and any(
                isinstance(c, dict) and c.get("reason") == "ResourceVersionTooLarge" for c in causes
            )
            asked = details.get("retryAfterSeconds")
            if wait is None and isinstance(asked, int) and not isinstance(asked, bool) and asked > 0:
                wait = float(asked)
    too_large = too_large or "Too large resource version" in message
    if not message:
        message = quote(body) or "no text"
    return ApiError(Cause.STATUS, server, message, status, reason, wait, too_large)


def quote(body: bytes) -> str:
    """Returns the beginning of a foreign response on one line."""
    return re.sub(r"\s+", " ", body[: 4 * TEXT_LIMIT].decode(errors="replace")).strip()[:TEXT_LIMIT]


def _seconds(header: str | None) -> float | None:
    # An HTTP date is allowed too, but API servers and their proxies send none, and it would need a trusted clock.
    text = (header or "").strip()
    return float(text[:9]) or None if text.isascii() and text.isdigit() else None
