"""A fake API server on loopback: lists, watches with history and bookmarks, Events.

`faults` inject failures (`ferrule.testing.fake_answers`): the first fault that is meant for a request handles it.
`requests` records all requests.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from ferrule.testing.fake_answers import Respond, start_json, status

PATHS = {
    "/api/v1/services": "Service",
    "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice",
    "/api/v1/nodes": "Node",
}


@dataclass(slots=True)
class Fault:
    """A fault, which handles requests instead of the server."""

    respond: Respond
    kind: str = ""
    """Only requests for this kind; empty for any."""
    verb: str = ""
    """list, watch, post, patch; empty for any."""
    times: int = 1
    """Number of requests; -1 for all."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    at: float
    verb: str
    kind: str
    query: dict[str, str]
    headers: dict[str, str]
    path: str
    body: bytes = b""


@dataclass
class FakeApi:
    """Use as `async with`; then it listens on `url`."""

    tls: ssl.SSLContext | None = None
    tokens: set[str] | None = None
    """Accepted bearer tokens; None accepts any client."""
    port: int = 0
    version: int = 100
    oldest: int = 0
    """Watches from before this version receive 410."""
    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    history: list[tuple[int, str, bytes]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Seen] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    open_watches: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None
    _ending: bool = False

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._ending = False
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._poke()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # ------------------------------------------------------------------ the cluster

    def put(self, thing: dict[str, Any]) -> int:
        """Creates or replaces an object. Returns its version."""
        kind = thing["kind"]
        key = f"{thing['metadata'].get('namespace', '')}/{thing['metadata']['name']}"
        known = self.objects.setdefault(kind, {})
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        self._event("MODIFIED" if key in known else "ADDED", kind, thing)
        known[key] = thing
        return self.version

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Deletes an object."""
        thing = self.objects[kind].pop(f"{namespace}/{name}")
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        self._event("DELETED", kind, thing)

    def bookmark(self, kind: str) -> None:
        """Sends a bookmark to watches of the kind."""
        self.version += 1
        self._event("BOOKMARK", kind, {"kind": kind, "metadata": {"resourceVersion": str(self.version)}})

    def raw_frame(self, kind: str, frame: bytes) -> None:
        """Sends raw bytes to watches of the kind."""
        self.history.append((self.version, kind, frame))
        self._poke()

    def compact(self) -> None:
        """Discards the history."""
        self.history.clear()
        self.oldest = self.version

    def asked(self, kind: str, verb: str) -> list[Seen]:
        """Returns the requests with a kind and a verb."""
        return [r for r in self.requests if r.kind == kind and r.verb == verb]

    def fail(self, respond: Respond, *, kind: str = "", verb: str = "", times: int = 1) -> None:
        """Sets the response to the next requests of a kind and verb."""
        self.faults.append(Fault(respond, kind, verb, times))

    def _event(self, what: str, kind: str, thing: dict[str, Any]) -> None:
        frame = json.dumps({"type": what, "object": thing}).encode() + b"\n"
        self.history.append((self.version, kind, frame))
        self._poke()

    def _poke(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # ------------------------------------------------------------------ requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        kind = PATHS.get(request.path, "Event" if "/events" in request.path else "")
        verb = {"POST": "post", "PATCH": "patch"}.get(request.method, "watch" if "watch" in request.query else "list")
        body = await request.read()
        self.requests.append(
            Seen(time.monotonic(), verb, kind, dict(request.query), dict(request.headers), request.path, body)
        )
        for fault in self.faults:
            if fault.kind in ("", kind) and fault.verb in ("", verb) and fault.times:
                fault.times -= 1
                return await fault.respond(request)
        if self.tokens is not None:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if given not in self.tokens:
                return status(401, "Unauthorized")
        match verb:
            case "list" if kind:
                return self._list(kind)
            case "watch" if kind:
                return await self._watch(request, kind)
            case "post" if kind == "Event":
                event = json.loads(body)
                self.events[f"{request.path}/{event['metadata']['name']}"] = event
                return web.json_response(event, status=201)
            case "patch" if kind == "Event":
                if request.path not in self.events:
                    return status(404, "NotFound")
                self.events[request.path] |= json.loads(body)
                return web.json_response(self.events[request.path])
        return status(404, "NotFound")

    def _list(self, kind: str) -> web.Response:
        items = list(self.objects.get(kind, {}).values())
        metadata = {"resourceVersion": str(self.version)}
        return web.json_response({"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        ends = time.monotonic() + float(request.query.get("timeoutSeconds", "300"))
        if seen < self.oldest:
            return status(410, "Expired", "too old resource version")
        response = await start_json(request)
        at = 0
        self.open_watches += 1
        try:
            while not self._ending and time.monotonic() < ends:  # time: timeoutSeconds, which the client asks for
                changed = self._changed
                while at < len(self.history):
                    version, of, frame = self.history[at]
                    at += 1
                    if of == kind and version > seen:
                        await response.write(frame)
                try:
                    # time: as above
                    await asyncio.wait_for(changed.wait(), max(0.0, ends - time.monotonic()))
                except TimeoutError:
                    break
        finally:
            self.open_watches -= 1
        return response
