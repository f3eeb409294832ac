"""Kernel settings that a Service proxy requires: conntrack's size and time-outs, route_localnet.

`wanted` computes the required settings; `prepare` reads, compares and writes what differs. It starts no process and
costs a dozen small reads, so every start calls it, not only `--init-only`.

The values are kube-proxy's, the handling of failures is not. kube-proxy ends when the first setting cannot be written,
and so needs a privileged container for as long as it runs. Here every setting is tried, each failure is reported with
the current and the required value, and the caller decides: `--init-only` exits with 1, a normal start warns and
continues, because a small conntrack table causes problems later and under load, while a missing proxy causes them now.
"""

from __future__ import annotations

import enum
import ipaddress
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ferrule.config.schema import Conntrack, Seconds, Settings
from ferrule.host import oom
from ferrule.host.sysctl import (
    CONNTRACK_MAX,
    ROUTE_LOCALNET,
    TCP_BE_LIBERAL,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    UDP_STREAM,
    UDP_TIMEOUT,
    read_number,
    write_number,
)

CONNTRACK_LIMIT = 1_048_576
"""The limit for the value derived from the number of cores: a full table of this size takes some 300 MiB. kube-proxy
has the same limit."""

ENTRIES_A_BUCKET = 4
"""The kernel's default ratio of nf_conntrack_max to hash buckets, which kube-proxy keeps."""

LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
ONLINE_CPUS = "sys/devices/system/cpu/online"
HASHSIZE = "sys/module/nf_conntrack/parameters/hashsize"


class Rule(enum.Enum):
    """When a current value is sufficient."""

    EXACT = "exact"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One required setting. `path` is relative to the root of the file system, `name` is used in messages."""

    path: str
    name: str
    value: int
    rule: Rule = Rule.EXACT

    def met_by(self, current: int | None) -> bool:
        """Returns whether the current value is sufficient."""
        if current is None:
            return False
        return current >= self.value if self.rule is Rule.AT_LEAST else current == self.value


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that was written."""

    name: str
    before: int | None
    """None if it could not be read."""
    after: int

    def __str__(self) -> str:
        return f"{self.name}: {'unknown' if self.before is None else self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class HostReport:
    """The result of `prepare`."""

    changed: tuple[Change, ...] = ()
    faults: tuple[str, ...] = ()
    """Settings with an insufficient value, one sentence each: name, current value, required value, reason."""
    notes: tuple[str, ...] = ()
    """Optional settings that failed: logged at higher verbosity, without effect on the exit code."""


def conntrack_max(conntrack: Conntrack, cores: int) -> int:
    """Returns nf_conntrack_max for a number of cores; 0 means that it is not set.

    As in kube-proxy 1.37, maxPerCore 0 disables it, `min` included. The limit applies to the product with the cores; a
    larger configured `min` is honoured where the product does not reach the limit.
    """
    if conntrack.max_per_core <= 0:
        return 0
    scaled = conntrack.max_per_core * cores
    return CONNTRACK_LIMIT if scaled > CONNTRACK_LIMIT else max(scaled, conntrack.min)


def wants_route_localnet(settings: Settings) -> bool:
    """Returns whether node ports must answer on 127.0.0.1: it is configured, and nodePortAddresses includes a
    loopback address."""
    if not settings.iptables.localhost_node_ports:
        return False
    # As in kube-proxy, entries of the other family do not restrict this one: without entries of its own it admits all
    # addresses.
    entries = [entry for entry in settings.node_port_addresses if ":" not in entry]
    return not entries or any(_admits_loopback(entry) for entry in entries)


def _admits_loopback(entry: str) -> bool:
    if entry in ("all", "localhost"):
        return True
    if entry == "primary":
        return False
    return ipaddress.IPv4Network(entry, strict=False).overlaps(LOOPBACK)


def wanted(settings: Settings, cores: int, *, route_localnet: bool = False) -> Iterator[Wanted]:
    """Yields the settings that a configuration requires, in the order of writing."""
    conntrack = settings.conntrack
    entries = conntrack_max(conntrack, cores)
    if entries > 0:
        # Values are only increased: both are global to the host, and other programs may need more than ferrule.
        yield _sysctl(CONNTRACK_MAX, entries, Rule.AT_LEAST)
        yield Wanted(HASHSIZE, "/" + HASHSIZE, entries // ENTRIES_A_BUCKET, Rule.AT_LEAST)
    timeouts: tuple[tuple[str, Seconds], ...] = (
        (TCP_ESTABLISHED, conntrack.tcp_established_timeout),
        (TCP_CLOSE_WAIT, conntrack.tcp_close_wait_timeout),
        (UDP_TIMEOUT, conntrack.udp_timeout),
        (UDP_STREAM, conntrack.udp_stream_timeout),
    )
    for name, seconds in timeouts:
        if seconds > 0:
            # The kernel uses whole seconds. Below one, kube-proxy would write 0, and every entry would expire
            # immediately.
            yield _sysctl(name, max(1, math.floor(seconds)))
    if conntrack.tcp_be_liberal:
        yield _sysctl(TCP_BE_LIBERAL, 1)
    if route_localnet and wants_route_localnet(settings):
        yield _sysctl(ROUTE_LOCALNET, 1)


def _sysctl(name: str, value: int, rule: Rule = Rule.EXACT) -> Wanted:
    return Wanted(f"proc/sys/{name}", f"sysctl {name.replace('/', '.')}", value, rule)


def cores(root: Path = Path("/")) -> int:
    """Returns the number of CPUs of the node. The conntrack table is global to the host, so the CPUs available to a
    container or a pinned process do not matter; they are the fallback if the kernel's list is unreadable."""
    try:
        online = parse_cpu_list((root / ONLINE_CPUS).read_text())
    except (OSError, ValueError):
        online = 0
    return online or len(os.sched_getaffinity(0))


def parse_cpu_list(text: str) -> int:
    """Returns the number of CPUs in a list like `0-3,8,10-11`. Raises `ValueError` for any other text."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        found.update(range(int(first), int(last if dash else first) + 1))
    return len(found)


def prepare(settings: Settings, root: Path = Path("/"), *, route_localnet: bool = False) -> HostReport:
    """Writes settings with an insufficient value. Does not raise for what the host refuses; the report contains it.

    `route_localnet` is for `--init-only`, after which the daemon may not set it. At a normal start the daemon sets it
    itself, once the rule that drops traffic from other hosts to 127.0.0.1 is in the kernel (CVE-2020-8558).
    """
    changed: list[Change] = []
    faults: list[str] = []
    for setting in wanted(settings, cores(root), route_localnet=route_localnet):
        path = root / setting.path
        current = read_number(path)
        if setting.met_by(current):
            continue
        fault = write_number(path, setting.name, current, setting.value)
        if fault is None:
            changed.append(Change(setting.name, current, setting.value))
        else:
            faults.append(fault)
    note = oom.set_score(settings.oom_score_adj, root)
    return HostReport(tuple(changed), tuple(faults), () if note is None else (note,))
