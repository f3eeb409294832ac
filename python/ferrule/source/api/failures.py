"""Failures of requests to the API server, as sentences for an operator."""

from __future__ import annotations

import errno
import ssl

import aiohttp
from yarl import URL

from ferrule.source.api.credentials import Credentials
from ferrule.source.api.outcome import ApiError, Cause


def explain(error: Exception, credentials: Credentials, connect_seconds: float) -> ApiError:
    """Returns the failure of a request as a sentence that names the cause.

    `connect_seconds` were allowed for the connection.
    """
    access = credentials.access
    server = access.server
    # An alert about the client certificate arrives with the first read, wrapped by aiohttp like any other broken
    # connection.
    cause = next((e for e in _causes(error) if isinstance(e, ssl.SSLError)), None)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.CertificateError) or isinstance(
        cause, ssl.SSLCertVerificationError
    ):
        return ApiError(Cause.TLS, server, _untrusted(cause or error, credentials))
    if isinstance(error, aiohttp.ClientSSLError) or cause is not None:
        return ApiError(Cause.TLS, server, f"TLS handshake failed: {getattr(cause, 'reason', None) or error}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ApiError(Cause.UNRESOLVED, server, f"the name {error.host!r} resolves to nothing [{access.origin}]")
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        if number == errno.ECONNREFUSED or _all_refused(error.os_error):
            return ApiError(Cause.REFUSED, server, f"connection refused [{access.origin}]")
        return ApiError(Cause.UNREACHABLE, server, str(error.os_error.strerror or error.os_error))
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ApiError(Cause.UNREACHABLE, server, f"no connection within {connect_seconds:g} s")
    if isinstance(error, TimeoutError):
        return ApiError(Cause.TIMEOUT, server, "connected, but no response")
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return ApiError(Cause.CONTENT, server, f"the response is not HTTP: {error}")
    return ApiError(Cause.BROKEN, server, f"the connection ended without a response: {error}")


def _untrusted(error: Exception, credentials: Credentials) -> str:
    """Returns the message of Python's ssl, the expected authority, and a command that shows the certificate."""
    reason = getattr(error, "verify_message", "") or str(error)
    access, url = credentials.access, URL(credentials.access.server)
    expected = " or ".join(credentials.expected_authorities()[:3]) or "one of the system's authorities"
    source = f" from {access.ca}" if access.ca else ""
    return (
        f"its certificate is not trusted: {reason}. Expected: issued by {expected}{source}. "
        f"To see the one that it shows: openssl s_client -connect {url.host_subcomponent}:{url.port}"
    )


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:
        chain.append(found)
        inner = getattr(found, "certificate_error", None) or getattr(found, "os_error", None)
        found = inner if isinstance(inner, BaseException) else found.__cause__
    return chain


def _all_refused(error: OSError) -> bool:
    """Returns whether every address refused: asyncio reports several attempts in one text."""
    return "Connect call failed" in str(error) and f"[Errno {errno.ECONNREFUSED}]" in str(error)
