"""What `ferrule run` was asked for. Data, and the node's name that follows from it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ferrule.config.schema import Settings
from ferrule.errors import InputError
from ferrule.types import Backend


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """Settings from the file or the flags, and what stands in neither."""

    settings: Settings
    manifests: Path | None = None
    """A folder to follow instead of the API."""
    once: bool = False
    """One sync, then end. With a folder only."""
    backend: Backend | None = None
    config_file: Path | None = None
    """Its change ends the process, so that the supervisor starts one that reads it."""
    config_content: bytes | None = None
    """What `settings` were read from, if they were."""
    init_only: bool = False
    master: str = ""
    """Overrides the kubeconfig's server."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """The whole command line, as text, for /flagz."""


def node_name(settings: Settings, override: str = "") -> str:
    """As kube-proxy finds it: flag, configuration, host name; lower case."""
    name = (override or settings.hostname_override or socket.gethostname()).strip().lower()
    if not name:
        raise InputError("the node's name is empty: set --hostname-override")
    return name
