"""The connection parameters of an API server, from a kubeconfig or a Pod's service account. Data only; `credentials`
uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Material:
    """A certificate, a key or a token: its bytes, or the file from which it is read each time."""

    field: str
    """The field that named it, e.g. `users[node].user.tokenFile`."""
    data: bytes = b""
    path: Path | None = None

    def __str__(self) -> str:
        return self.field if self.path is None else f"{self.path} ({self.field})"


@dataclass(frozen=True, slots=True)
class Access:
    """Address and identity for one API server."""

    server: str
    """`https://host:port/prefix`, without a slash at its end."""
    origin: str
    """The origin of the parameters, for messages."""
    ca: Material | None = None
    """None for the system's roots."""
    tls_server_name: str = ""
    verify: bool = True
    proxy: str = ""
    token: Material | None = None
    basic: tuple[str, str] | None = None
    certificate: Material | None = None
    key: Material | None = None
    exec_config: dict[str, Any] | None = None
    """The `exec` section, with an absolute path of its command."""
    warnings: tuple[str, ...] = field(default=())
    """Warnings about usable but questionable settings, one sentence each."""
