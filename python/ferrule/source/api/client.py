"""The HTTP client of the API server: responses are bytes.

Responses are not compressed: a node lists once per start, and decompressing 100 MB costs the node (and compressing the
server) more than transferring it within a data centre.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from ferrule.config.schema import ClientConnection
from ferrule.source.api import connection
from ferrule.source.api.credentials import Credentials
from ferrule.source.api.failures import explain
from ferrule.source.api.limiter import TokenBucket
from ferrule.source.api.outcome import ApiError, Cause, from_answer, quote

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

ANSWER_LIMIT = 64 << 10
"""Maximum size of a response that is not a list or a watch. A Status object has a few hundred bytes."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Tests shorten them."""

    connect: float = 10.0
    """Connection time-out, TCP and TLS together."""
    headers: float = 25.0
    """From the request to the response's first line. Below the reflector's `CALM`, so that waiting does not count as
    a healthy watch."""
    idle: float = 60.0
    """Between two pieces of a response that should flow (lists, errors)."""


@dataclass(frozen=True, slots=True)
class RequestSeen:
    """One request, for metrics."""

    method: str
    host: str
    code: str
    """HTTP status, or `<error>` as client-go has it."""
    seconds: float
    """Seconds until the response's headers."""


class ApiResponse:
    """A 2xx response of the right type, whose body is not read yet."""

    def __init__(self, response: aiohttp.ClientResponse, server: str) -> None:
        self._response = response
        self._server = server

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the body as it arrives, buffering at most some 128 KiB. Raises `ApiError` if it ends early."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except TimeoutError as error:
            raise ApiError(Cause.TIMEOUT, self._server, "connected, but the response stalled") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            text = str(error) or type(error).__name__
            raise ApiError(Cause.BROKEN, self._server, f"the response ended early: {text}") from error


class ApiClient:
    """One session to one API server. Use as `async with`."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        version: str,
        limits: ClientConnection | None = None,
        timeouts: Timeouts | None = None,
        observer: Callable[[RequestSeen], None] = lambda _: None,
    ) -> None:
        limits = limits or ClientConnection()
        self._credentials = credentials
        self._bucket = TokenBucket(limits.qps, limits.burst)
        self._timeouts = timeouts or Timeouts()
        self._observer = observer
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        self._headers = {"User-Agent": f"ferrule/{version} (linux/{machine})", "Accept-Encoding": "identity"}
        self._session: aiohttp.ClientSession | None = None

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._credentials.access.server

    async def __aenter__(self) -> Self:
        self._session = connection.open_session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, idle: float | None = None
    ) -> AsyncIterator[ApiResponse]:
        """Sends a GET; `idle` is the longest silence within the response, in seconds.

        Raises `ApiError` without a connection, for a status other than 2xx, or if the response is not JSON.
        """
        async with self._request("GET", path, query=query, idle=idle) as response:
            if not response.content_type.endswith("json"):
                head = await _head(response)
                text = f"answered with {response.content_type}, not {JSON}: {quote(head)}"
                raise ApiError(Cause.CONTENT, self.server, text, response.status)
            yield ApiResponse(response, self.server)

    async def send(self, method: str, path: str, body: bytes, content_type: str = JSON) -> bytes:
        """Sends a POST or PATCH. Returns the (short) response. Raises `ApiError`."""
        async with self._request(method, path, body=body, content_type=content_type) as response:
            return await _head(response)

    # ------------------------------------------------------------------ inside

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "",
        idle: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        authorization = await self._credentials.authorization()
        response = await self._open(method, path, query, body, content_type, idle, authorization)
        if response.status == 401:
            # The token may have been rotated or revoked just now: one retry, if there is another token.
            self._credentials.rejected(authorization)
            try:
                renewed = await self._credentials.authorization()
            except BaseException:
                response.close()
                raise
            if renewed != authorization:
                response.close()
                response = await self._open(method, path, query, body, content_type, idle, renewed)
        try:
            if not 200 <= response.status < 300:
                head = await _head(response)
                raise from_answer(self.server, response.status, head, response.headers.get("Retry-After"))
            yield response
        finally:
            # Released to the pool only when read to its end: the rest of a watch never ends.
            response.close() if not response.content.at_eof() else response.release()

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        idle: float | None,
        authorization: str,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("ApiClient is used outside of its `async with`")
        context = self._credentials.tls()
        headers = {**self._headers, "Accept": JSON}
        if authorization:
            headers["Authorization"] = authorization
        if body is not None:
            headers["Content-Type"] = content_type
        access, timeouts = self._credentials.access, self._timeouts
        url = URL(access.server + path).with_query(dict(query or {}))
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=timeouts.connect, sock_read=timeouts.idle if idle is None else idle
        )
        await asyncio.sleep(self._bucket.reserve(time.monotonic()))
        started, code = time.monotonic(), "<error>"
        extra: dict[str, Any] = {}
        if access.tls_server_name:
            extra["server_hostname"] = access.tls_server_name
        try:
            async with asyncio.timeout(timeouts.connect + timeouts.headers):
                response = await self._session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    timeout=timeout,
                    ssl=True if context is None else context,
                    proxy=access.proxy or None,
                    allow_redirects=False,
                    **extra,
                )
            code = str(response.status)
            return response
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:  # TimeoutError is an OSError
            raise explain(error, self._credentials, timeouts.connect) from error
        finally:
            self._observer(RequestSeen(method, url.authority, code, time.monotonic() - started))


def jitter() -> float:
    """Returns a random number for back-off; not cryptographic."""
    return random.random()  # noqa: S311


async def _head(response: aiohttp.ClientResponse) -> bytes:
    """Returns the first bytes of a short response, as far as they are readable."""
    kept = b""
    with contextlib.suppress(aiohttp.ClientError, OSError):
        while len(kept) < ANSWER_LIMIT and (part := await response.content.read(ANSWER_LIMIT - len(kept))):
            kept += part
    return kept
