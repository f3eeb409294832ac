"""Decodes and validates credentials of a plugin (kubeconfig's `exec`) that `ferrule.process.exec_plugin` ran."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ferrule.errors import InputError
from ferrule.process import exec_plugin


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """A plugin's credential."""

    token: str
    certificate: bytes
    key: bytes
    expires_at: float | None
    """Expiry by the wall clock, seconds since the epoch; None for never."""


async def run_plugin(config: dict[str, Any], *, seconds: int = exec_plugin.PLUGIN_SECONDS) -> ExecCredential:
    """Runs the plugin once. Raises `InputError` for all failures of the plugin and of its section in the kubeconfig."""
    return credential(config["command"], await exec_plugin.run(config, seconds=seconds))


def credential(command: str, status: Any) -> ExecCredential:
    """Decodes the `status` of an ExecCredential. Raises `InputError`."""
    status = status if isinstance(status, dict) else {}
    token, certificate, key = (status.get(n) or "" for n in ("token", "clientCertificateData", "clientKeyData"))
    if not all(isinstance(v, str) for v in (token, certificate, key)):
        raise InputError(f"exec plugin {command}: status.token and status.client*Data must be text")
    if not (certificate.isascii() and key.isascii()):
        raise InputError(f"exec plugin {command}: status.client*Data must be PEM, which is ASCII")
    if not all("!" <= character <= "~" for character in token):
        raise InputError(f"exec plugin {command}: status.token must be one word of printable ASCII characters")
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
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        reason = f"status.expirationTimestamp {text!r} is not an RFC 3339 time"
        raise InputError(f"exec plugin {command}: {reason}") from error
