"""Probes the host: backend, families, kernel settings, addresses. Creates the engine that fits it."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ferrule._engine import Engine, build_info
from ferrule.config.schema import Settings
from ferrule.dataplane import backend as backends
from ferrule.dataplane import nfacct
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.dataplane.nftables import NetlinkFallback
from ferrule.host import kernel_settings
from ferrule.host.addresses import local_addresses
from ferrule.host.sysctl import TCP_BE_LIBERAL, Sysctls
from ferrule.observe.logs import kv
from ferrule.process.runner import Runner
from ferrule.sync.options import HostFacts, engine_options
from ferrule.types import Backend, Family

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Host:
    """The probed host. `choice` changes once: when the other backend's rules are removed."""

    node: str
    runner: Runner
    choice: backends.Choice
    planes: Sequence[IptablesDataplane]
    engine: Engine
    addresses: list[str]
    node_ips: tuple[str, ...]
    """The addresses used without a Node object, at most one per family."""
    sysctls: Sysctls = field(default_factory=Sysctls)

    @property
    def families(self) -> list[Family]:
        """The families that this host supports."""
        return [plane.family for plane in self.planes]


async def probe(settings: Settings, name: str, backend: Backend | None = None) -> Host:
    """Probes the host. `name` is the node's name; `backend` overrides the configuration. Raises `DataplaneError` or
    `InputError` if ferrule cannot work on this host."""
    runner = Runner()
    override = backend or (None if settings.ferrule.backend == "auto" else Backend(settings.ferrule.backend))
    choice = await backends.choose(runner, override)
    planes = await _planes(runner, choice.backend, netlink=settings.ferrule.nft_writes == "netlink")
    log_report(kernel_settings.prepare(settings), logging.WARNING)
    counters = {name: nfacct.ensure(name) for name in (nfacct.INVALID_DROPPED, nfacct.LOCALHOST_ACCEPTED)}
    addresses = local_addresses()
    own = node_ips(settings.bind_address, addresses)
    facts = HostFacts(
        node_name=name,
        node_ips=own,
        ordered_blocks=choice.backend is Backend.NFT,
        random_fully=await planes[0].supports_random_fully(),
        nfacct_invalid_dropped=counters[nfacct.INVALID_DROPPED] is nfacct.Outcome.YES,
        nfacct_localhost_accepted=counters[nfacct.LOCALHOST_ACCEPTED] is nfacct.Outcome.YES,
        conntrack_tcp_be_liberal=Sysctls().read(TCP_BE_LIBERAL) == 1,
    )
    engine = Engine(engine_options(settings, facts, digest_key=os.urandom(16), stages=True))
    log.info(
        "Starting ferrule",
        extra=kv(
            version=build_info()["version"],
            profile=build_info()["profile"],
            node=name,
            backend=choice.backend.value,
            because=choice.reason,
            writes="netlink" if planes[0].by_netlink else planes[0].tool("restore"),
            families=[plane.family for plane in planes],
            nfacct={name: outcome.value for name, outcome in counters.items()},
        ),
    )
    return Host(name, runner, choice, planes, engine, addresses, own)


def log_report(report: kernel_settings.HostReport, level: int) -> None:
    """Logs the result of writing kernel settings; faults at `level`."""
    for change in report.changed:
        log.info("Kernel setting changed", extra=kv(setting=change.name, before=change.before, now=change.after))
    for fault in report.faults:
        log.log(level, "Kernel setting", extra=kv(reason=fault))
    for note in report.notes:
        log.debug("Kernel setting", extra=kv(reason=note))


async def _planes(runner: Runner, backend: Backend, *, netlink: bool) -> list[IptablesDataplane]:
    """Returns the data planes of the families that this host supports. Raises `DataplaneError` if it supports none."""
    works = await backends.families(runner, backend)
    over_netlink = netlink and backend is Backend.NFT
    planes = [
        IptablesDataplane(family, backend, runner, NetlinkFallback() if over_netlink else None)
        for family, why_not in works.items()
        if why_not is None
    ]
    for family, why_not in works.items():
        if why_not is None:
            continue
        if not planes:
            raise why_not
        log.info("Host supports one IP family only", extra=kv(without=family, reason=str(why_not)))
    return planes


def node_ips(bind_address: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """Returns the node's likely addresses without a Node object: bindAddress if it is a host address, otherwise the
    first address that other hosts can reach, at most one per family."""
    found: dict[int, str] = {}
    for text in (bind_address, *addresses):
        ip = ipaddress.ip_address(text)
        if not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast):
            found.setdefault(ip.version, text)
    return tuple(found.values())
