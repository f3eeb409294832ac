"""The options of `ferrule run`, and the node's name derived from them."""

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
    """The settings from the file or the flags, and the options that are not part of them."""

    settings: Settings
    manifests: Path | None = None
    """A folder of manifests to follow instead of the API server."""
    once: bool = False
    """Whether to end after one sync. With a folder only."""
    backend: Backend | None = None
    config_file: Path | None = None
    """The configuration file. Its change ends the process, so that the supervisor starts one that reads it."""
    config_content: bytes | None = None
    """The content that `settings` were read from, if any."""
    init_only: bool = False
    master: str = ""
    """Overrides the kubeconfig's server."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """The whole command line, as text, for /flagz."""


def node_name(settings: Settings, override: str = "") -> str:
    """Returns the node's name as kube-proxy determines it: flag, configuration, host name; lower case."""
    name = (override or settings.hostname_override or socket.gethostname()).strip().lower()
    if not name:
        raise InputError("the node's name is empty: set --hostname-override")
    return name
