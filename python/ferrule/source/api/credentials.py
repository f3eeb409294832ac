"""Current credentials: reads files again, runs plugins again, and renews the TLS context.

Credential files change: bound tokens are rotated by kubelet, certificates by kubeadm or cert-manager. If a file is
unreadable during its rotation, the last good content is used, which is logged once. Ages use the monotonic clock, so a
wall clock that is set back delays nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ferrule.errors import InputError
from ferrule.observe.logs import kv
from ferrule.process.memory_file import memory_file
from ferrule.source.api.access import Access, Material
from ferrule.source.api.exec_plugin import ExecCredential, run_plugin
from ferrule.source.api.outcome import ApiError, Cause

log = logging.getLogger(__name__)

REREAD_SECONDS = 45.0
"""Seconds after which a file is read again; the guarantee is a minute."""

EXPIRY_LEEWAY = 60.0
"""Seconds before its expiry at which a plugin's credential is renewed; at three quarters of its life if that is
shorter."""


@dataclass(slots=True)
class _Content:
    """A file's last good content."""

    identity: tuple[int, ...] = ()
    data: bytes = b""
    read_at: float = float("-inf")
    complained: str = ""


class Credentials:
    """The current credentials of one `Access`. Not thread-safe; tasks of one event loop may share it."""

    def __init__(
        self,
        access: Access,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        plugin: Callable[[dict[str, Any]], Awaitable[ExecCredential]] = run_plugin,
    ) -> None:
        self.access = access
        self._clock = clock
        self._wall = wall
        self._plugin = plugin
        self._files: dict[str, _Content] = {}
        self._context: ssl.SSLContext | None = None
        self._context_of: tuple[bytes, ...] = ()
        self._issued: ExecCredential | None = None
        self._renew_at = float("-inf")
        self._expires_at = float("inf")
        self._running = asyncio.Lock()

    async def authorization(self) -> str:
        """Returns the Authorization header; empty if a certificate (or nothing) identifies the client. Raises
        `ApiError`."""
        access = self.access
        if access.exec_config is not None:
            issued = await self._plugin_credential(access.exec_config)
            return f"Bearer {issued.token}" if issued.token else ""
        if access.token is not None:
            token = self._read(access.token).strip()
            if not token or not token.isascii() or any(byte <= 32 for byte in token):
                raise self._at_fault(f"{access.token} is not a token: it must be one word")
            return f"Bearer {token.decode()}"
        if access.basic is not None:
            return "Basic " + base64.b64encode(":".join(access.basic).encode()).decode()
        return ""

    def rejected(self, authorization: str) -> None:
        """Reports a 401 for this header: files are read and plugins run again, unless that has happened since."""
        for content in self._files.values():
            content.read_at = float("-inf")
        issued = self._issued
        if issued is not None and authorization == (f"Bearer {issued.token}" if issued.token else ""):
            self._renew_at = float("-inf")
            self._issued = None

    def tls(self) -> ssl.SSLContext | None:
        """Returns the context for new connections, a new one after a file has changed. None for plain HTTP.

        Raises `ApiError` with the name of the unusable file.
        """
        access = self.access
        if not access.server.startswith("https:"):
            return None
        issued = self._issued
        certificate = issued.certificate if issued else self._read(access.certificate) if access.certificate else b""
        key = issued.key if issued else self._read(access.key) if access.key else b""
        ca = self._read(access.ca) if access.ca else b""
        if self._context is None or self._context_of != (ca, certificate, key):
            try:
                self._context = self._build(ca, certificate, key)
            except ApiError as error:
                if self._context is None:
                    raise
                # In the middle of a rotation: certificate and key are two files.
                log.warning("Keeping the previous certificates", extra=kv(err=str(error)))
            else:
                if self._context_of:
                    log.info("Certificates have changed: new connections use them", extra=kv(origin=access.origin))
                self._context_of = (ca, certificate, key)
        return self._context

    def expected_authorities(self) -> list[str]:
        """Returns the subjects of the trusted authorities, for messages."""
        context = self._context
        if context is None or self.access.ca is None:
            return []
        return [_name(c.get("subject", ())) for c in context.get_ca_certs()]

    # ------------------------------------------------------------------ inside

    def _build(self, ca: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
        access = self.access
        try:
            context = ssl.create_default_context(cadata=ca.decode("ascii", "replace") if ca else None)
        except ssl.SSLError as error:
            raise self._at_fault(f"{access.ca} holds no certificate in PEM form: {error.reason or error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # On by default since Python 3.13; it rejects authorities without key usage, which many clusters still have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not access.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            try:
                with _as_file(certificate) as certificate_path, _as_file(key) as key_path:
                    context.load_cert_chain(certificate_path, key_path, password=_no_password)
            except (ssl.SSLError, ValueError) as error:
                named = f"{access.certificate} and {access.key}" if access.certificate else "the plugin's certificate"
                reason = getattr(error, "reason", None) or error
                raise self._at_fault(f"{named} are not a certificate with its key in PEM form: {reason}") from error
        return context

    def _read(self, material: Material) -> bytes:
        path = material.path
        if path is None:
            return material.data
        content = self._files.setdefault(str(path), _Content())
        now = self._clock()
        if now - content.read_at < REREAD_SECONDS:
            return content.data
        try:
            status = path.stat()
            identity = (status.st_mtime_ns, status.st_size, status.st_ino)
            if identity != content.identity or content.read_at == float("-inf"):
                data = path.read_bytes()
                if not data.strip():
                    raise OSError(0, "is empty")
                content.identity, content.data = identity, data
            content.complained = ""
        except OSError as error:
            if not content.data:
                raise self._at_fault(f"{material} cannot be read: {error.strerror}") from error
            if content.complained != str(error):
                content.complained = str(error)
                log.warning("Using the last good content", extra=kv(file=str(path), err=error.strerror))
        content.read_at = now
        return content.data

    async def _plugin_credential(self, config: dict[str, Any]) -> ExecCredential:
        async with self._running:
            now = self._clock()
            if self._issued is not None and now < self._renew_at:
                return self._issued
            try:
                issued = await self._plugin(config)
            except InputError as error:
                if self._issued is None or now >= self._expires_at:
                    raise self._at_fault(str(error)) from error
                log.warning("Using the plugin's last credential", extra=kv(err=str(error)))
                self._renew_at = now + EXPIRY_LEEWAY / 4
                return self._issued
            self._issued = issued
            life = float("inf") if issued.expires_at is None else issued.expires_at - self._wall()
            # At least a few seconds: a node whose clock is ahead would otherwise run the plugin for every request.
            self._expires_at = self._clock() + life
            self._renew_at = (
                self._clock() + max(5.0, life - min(EXPIRY_LEEWAY, life / 4)) if life != float("inf") else life
            )
            return issued

    def _at_fault(self, detail: str) -> ApiError:
        return ApiError(Cause.CREDENTIALS, self.access.server, f"{detail} [{self.access.origin}]")


def _no_password() -> str:
    # Without a callback OpenSSL would prompt on the terminal.
    raise ValueError("the key is encrypted, and a daemon cannot ask for its password")


def _name(rdns: Any) -> str:
    return ",".join(f"{_SHORT.get(key, key)}={value}" for rdn in rdns for key, value in rdn)


_SHORT = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Yields a path for OpenSSL without writing a key to disk."""
    with memory_file("ferrule-tls", data) as descriptor:
        yield f"/proc/self/fd/{descriptor}"
