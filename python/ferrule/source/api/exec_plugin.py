"""Credentials from a plugin (kubeconfig's `exec`), run by kubernetes_asyncio's `ExecProvider`.

What that leaves out is added here: a time limit that also ends the child (by timeout(1), for the provider gives no
handle on its process), and the reading of expirationTimestamp.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ferrule.errors import InputError
from ferrule.source.api.lean import lean_import

PLUGIN_SECONDS = 60
"""How long a plugin may take. It talks to a cloud's token service; the slow ones take a few seconds."""


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """What the plugin said."""

    token: str
    certificate: bytes
    key: bytes
    expires_at: float | None
    """Wall clock, seconds since the epoch; None: never."""


class _ConfigNode(dict[str, Any]):
    """What `ExecProvider` wants its section to be."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.value = values

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return _ConfigList(value) if key == "args" else value

    def safe_get(self, key: str) -> Any:
        """None where there is nothing."""
        return self.get(key)


class _ConfigList(list[Any]):
    @property
    def value(self) -> list[Any]:
        return list(self)


async def run_plugin(config: dict[str, Any], *, seconds: int = PLUGIN_SECONDS) -> ExecCredential:
    """Run it once. Raises `InputError`: whatever is wrong, it is the plugin or its section of the kubeconfig."""
    provider = lean_import("kubernetes_asyncio.config.exec_provider").ExecProvider(_ConfigNode(config))
    command = config["command"]
    guard = shutil.which("timeout")
    if shutil.which(command) is None:
        hint = config.get("installHint") or ""
        raise InputError(f"exec plugin {command}: not found or not executable {hint}".rstrip())
    if guard is not None:
        provider.args = [guard, "-k", "5", str(seconds), *provider.args]
    try:
        # The provider waits for the child's end of output; the margin is for timeout(1) to have its way first.
        async with asyncio.timeout(seconds + 10):
            status = await provider.run()
    except TimeoutError as error:
        raise InputError(f"exec plugin {command}: no end after {seconds} s") from error
    except Exception as error:  # ConfigException of a module that is not imported, OSError, UnicodeError
        text = " ".join(str(error).split())
        if guard is not None and ("returned 124" in text or "returned 137" in text):
            text = f"no end after {seconds} s: killed"
        raise InputError(f"exec plugin {command}: {text}") from error
    return _credential(command, status)


def _credential(command: str, status: Any) -> ExecCredential:
    status = status if isinstance(status, dict) else {}
    token, certificate, key = (status.get(n) or "" for n in ("token", "clientCertificateData", "clientKeyData"))
    if not all(isinstance(v, str) for v in (token, certificate, key)):
        raise InputError(f"exec plugin {command}: status.token and status.client*Data must be text")
    if bool(certificate) is not bool(key):
        raise InputError(f"exec plugin {command}: status.clientCertificateData and status.clientKeyData go together")
    if not token and not certificate:
        raise InputError(f"exec plugin {command}: status has neither token nor clientCertificateData")
    return ExecCredential(token, certificate.encode(), key.encode(), _expiry(command, status))


def _expiry(command: str, status: dict[str, Any]) -> float | None:
    text = status.get("expirationTimestamp")
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"exec plugin {command}: status.expirationTimestamp {text!r} is no RFC 3339 time") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
