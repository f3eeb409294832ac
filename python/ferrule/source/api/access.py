"""What a kubeconfig or a Pod's service account says about reaching the API server. Data only; `credentials` uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Material:
    """A certificate, a key or a token: its bytes, or the file to read them from (again and again)."""

    field: str
    """Where it was named, e.g. `users[node].user.tokenFile`."""
    data: bytes = b""
    path: Path | None = None

    def __str__(self) -> str:
        return self.field if self.path is None else f"{self.path} ({self.field})"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach one API server and as whom."""

    server: str
    """`https://host:port/prefix`, without a slash at its end."""
    origin: str
    """Who said so, for messages."""
    ca: Material | None = None
    """None: the system's own roots."""
    tls_server_name: str = ""
    verify: bool = True
    proxy: str = ""
    token: Material | None = None
    basic: tuple[str, str] | None = None
    certificate: Material | None = None
    key: Material | None = None
    exec_config: dict[str, Any] | None = None
    """The `exec` section as it stands, its command made absolute."""
    warnings: tuple[str, ...] = field(default=())
    """What is odd but usable, one sentence each."""
