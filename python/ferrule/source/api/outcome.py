"""What can go wrong between us and the API server, decided once: callers go by `Cause` and status, never by text."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import orjson

from ferrule.errors import FerruleError


class Cause(enum.Enum):
    """Which part failed."""

    CREDENTIALS = "credentials"  # a file of ours or the exec plugin: the node's fault, not the server's
    UNRESOLVED = "unresolved"  # the server's name has no address
    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"  # no route, or no answer to the first packet
    TLS = "tls"  # the certificate is not the one to trust, or the handshake failed
    TIMEOUT = "timeout"  # connected, then silence
    BROKEN = "broken"  # the connection ended in the middle of an answer
    CONTENT = "content"  # an answer, but not the API's: HTML from a proxy, a wrong type
    STATUS = "status"  # the API server said no; see `status`


@dataclass
class ApiError(FerruleError):
    """One request that did not do what it was for."""

    cause: Cause
    server: str
    detail: str
    status: int = 0
    """HTTP status; 0 when there was no answer."""
    reason: str = ""
    """Status.reason of the answer, e.g. Expired, Forbidden."""
    retry_after: float | None = None
    """Seconds that the server asks us to stay away."""
    version_too_large: bool = False
    """The server's cache is older than the version we asked for."""

    def __str__(self) -> str:
        code = f" ({self.status})" if self.status else ""
        return f"{self.server}: {self.cause.value}{code}: {self.detail}"

    @property
    def expired(self) -> bool:
        """The version we hold is gone from the server's history."""
        return self.status == 410 or self.reason in ("Expired", "Gone")


TEXT_LIMIT = 300
"""Characters of an answer that is not the API's which are quoted."""


def from_answer(server: str, status: int, body: bytes, retry_after: str | None) -> ApiError:
    """A non-2xx answer; `body` may be a Status object, HTML, or cut short."""
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
    """The beginning of a foreign answer on one line."""
    return re.sub(r"\s+", " ", body[: 4 * TEXT_LIMIT].decode(errors="replace")).strip()[:TEXT_LIMIT]


def _seconds(header: str | None) -> float | None:
    # An HTTP date is allowed too, but nothing in front of an API server sends one, and it would need a trusted clock.
    text = (header or "").strip()
    return float(text[:9]) or None if text.isascii() and text.isdigit() else None
