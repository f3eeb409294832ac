"""HTTP servers for healthCheckNodePorts, which tell a Service's load balancer whether to send traffic to this node.

Each Service has one server for each of its IP families, with the family's own addresses and number of local endpoints:
a node whose only local endpoint is IPv4 drops the Service's IPv6 traffic, so it must not attract any.

`ServiceHealthServers.sync` sets the desired servers; `run` opens and closes ports and retries failures. Responses
change with `sync` immediately, ports within a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ferrule.observe.health import FAMILY_NAMES
from ferrule.observe.logs import kv
from ferrule.serve.http import JSON, Handler, HttpServer, Limits, Request, Response
from ferrule.serve.listener import RETRY_SECONDS, Endpoint, Service, reason
from ferrule.types import FAMILIES, Family

log = logging.getLogger(__name__)

WEIGHT = "X-Load-Balancing-Endpoint-Weight"
"""A header that some load balancers use as a weight (KEP-1860; Google's weighted balancing)."""

WILDCARD: Mapping[Family, str] = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 - the API's default
"""The wildcard address of each family, for that family only."""

LIMITS = Limits(connections=1024, idle_seconds=30.0)
"""Limits for all of these ports together: hundreds of them are probed by a handful of load balancers."""


class HealthCheck(Protocol):
    """A health check as returned by `Engine.health_checks`."""

    @property
    def namespace(self) -> str:
        """The Service's."""

    @property
    def name(self) -> str:
        """The Service's."""

    @property
    def family(self) -> Family:
        """The IP family of the other fields."""

    @property
    def port(self) -> int:
        """healthCheckNodePort."""

    @property
    def local_endpoints(self) -> int:
        """Ready endpoint addresses of the family on this node."""


Key = tuple[str, str, Family]
"""Namespace and name of a Service, and one of its families."""


@dataclass(slots=True)
class _Port:
    """A Service's port in one family: desired and current state."""

    number: int
    service: Service
    addresses: tuple[str, ...] | None = None
    """The addresses it listens on; None if it does not listen."""
    failure: str | None = None
    """The reason of the last failure, logged once."""


class ServiceHealthServers:
    """All health check servers. Not thread-safe: event loop only."""

    def __init__(
        self,
        proxy_healthy: Callable[[], bool],
        *,
        on_failure: Callable[[str, str, int, str], None] = lambda *_: None,
        on_counts: Callable[[int, int], None] = lambda *_: None,
        limits: Limits = LIMITS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`on_failure(namespace, name, port, reason)` is called once per Service, family and reason.
        `on_counts(listening, failed)` receives the numbers of Services after each round; a Service that failed in
        one family counts as failed."""
        self._proxy_healthy = proxy_healthy
        self._on_failure = on_failure
        self._on_counts = on_counts
        self._retry_seconds = retry_seconds
        self._http = HttpServer(limits)
        self._addresses: dict[Family, tuple[str, ...]] = {family: (WILDCARD[family],) for family in FAMILIES}
        self._wanted: dict[Key, HealthCheck] = {}
        self._ports: dict[Key, _Port] = {}
        self._wake = asyncio.Event()

    def sync(self, checks: Sequence[HealthCheck]) -> None:
        """Sets the Services that have a server."""
        self._wanted = {(check.namespace, check.name, check.family): check for check in checks}
        self._wake.set()

    def set_addresses(self, addresses: Mapping[Family, Sequence[str]]) -> None:
        """Sets the addresses that each family listens on: `listen_addresses`. A family without addresses does not
        listen."""
        new = {family: tuple(addresses.get(family, ())) for family in FAMILIES}
        if new != self._addresses:
            self._addresses = new
            self._wake.set()

    @property
    def failed(self) -> dict[Key, str]:
        """Returns the Services and families whose port could not be opened, with the reason."""
        return {key: port.failure for key, port in self._ports.items() if port.failure is not None}

    @property
    def listening(self) -> set[Key]:
        """Returns the Services and families whose port listens."""
        return {key for key, port in self._ports.items() if port.addresses is not None}

    async def run(self) -> None:
        """Reconciles ports, for ever; cancellation closes all."""
        try:
            while True:
                self._wake.clear()
                await self._reconcile()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._retry_seconds if self.failed else None)
        finally:
            for port in self._ports.values():
                port.service.close()
            self._ports.clear()
            await self._http.stop()

    async def _reconcile(self) -> None:
        # Obsolete ports are closed before any is opened: a port may have moved from one Service to another.
        for key, port in list(self._ports.items()):
            check = self._wanted.get(key)
            if check is None or check.port != port.number:
                log.debug("Health check port closed", extra=_kv(key, port=port.number))
                port.service.close()
                del self._ports[key]
            elif port.addresses is not None and port.addresses != self._addresses[check.family]:
                port.service.close()
                port.addresses = None
        for key, check in sorted(self._wanted.items(), key=lambda item: item[0]):
            entry = self._ports.get(key)
            if entry is None:
                service = Service(self._handler(key), self._http)
                entry = self._ports[key] = _Port(check.port, service)
            if entry.addresses is None:
                await self._open(key, entry)
        failed = {key[:2] for key in self.failed}
        self._on_counts(len({key[:2] for key in self.listening} - failed), len(failed))

    async def _open(self, key: Key, port: _Port) -> None:
        namespace, name, family = key
        addresses = self._addresses[family]
        try:
            await port.service.open([Endpoint(address, port.number) for address in addresses])
        except OSError as error:
            why = reason(error)
            if why != port.failure:
                port.failure = why
                log.error(
                    "Cannot open a health check port",
                    extra=_kv(key, port=port.number, addresses=list(addresses), reason=why),
                )
                self._on_failure(namespace, name, port.number, f"{FAMILY_NAMES[family]}: {why}")
            return
        log.debug("Health check port opened", extra=_kv(key, port=port.number))
        port.addresses, port.failure = addresses, None

    def _handler(self, key: Key) -> Handler:
        async def handle(_: Request) -> Response:
            # Any path, as in kube-proxy. A Service that was just removed has no endpoints.
            check = self._wanted.get(key)
            count = 0 if check is None else check.local_endpoints
            healthy = self._proxy_healthy()
            body = _body(key[0], key[1], count, healthy)
            return Response(body, JSON, 200 if count and healthy else 503, headers={WEIGHT: str(count)})

        return handle


def _kv(key: Key, **pairs: object) -> dict[str, Any]:
    namespace, name, family = key
    return kv(service=f"{namespace}/{name}", ipFamily=family, **pairs)


def _body(namespace: str, name: str, count: int, healthy: bool) -> bytes:
    """Returns kube-proxy's body byte for byte, including tabs: some load balancers compare the text."""
    service = {"namespace": namespace, "name": name}
    return json.dumps(
        {"service": service, "localEndpoints": count, "serviceProxyHealthy": healthy}, indent="\t"
    ).encode()


_VERSIONS: Mapping[Family, int] = {"ipv4": 4, "ipv6": 6}
_WORDS = {"all": ("0.0.0.0/0", "::/0"), "localhost": ("127.0.0.0/8", "::1/128")}


def listen_addresses(
    node_port_addresses: Sequence[str], local: Sequence[str], primary: Sequence[str]
) -> dict[Family, tuple[str, ...]]:
    """Returns the addresses on which nodePortAddresses requires health checks in each family, from the host's `local`
    addresses.

    As in kube-proxy, a family that no item mentions is not limited. Words: `all`, `localhost`, `primary` (the node's
    own addresses, passed in). Link-local IPv6 addresses need an interface to listen on, so they are ignored.
    """
    words = {**_WORDS, "primary": tuple(primary)}
    networks = [
        ipaddress.ip_network(text, strict=False) for item in node_port_addresses for text in words.get(item, (item,))
    ]
    found: dict[Family, tuple[str, ...]] = {}
    for family, version in _VERSIONS.items():
        own = [ip for ip in map(ipaddress.ip_address, local) if ip.version == version]
        asked = [network for network in networks if network.version == version]
        if not own:
            found[family] = ()  # the host does not support this family: its wildcard cannot be opened
        elif not asked or any(network.prefixlen == 0 for network in asked):
            found[family] = (WILDCARD[family],)
        else:
            usable = (ip for ip in own if not (version == 6 and ip.is_link_local))
            found[family] = tuple(str(ip) for ip in usable if any(ip in network for network in asked))
    return found
