"""What the node must be set to before a Service proxy works well: conntrack's size and time-outs, the OOM score.

`wanted` decides and touches nothing; `prepare` reads, compares and writes what differs. It starts no process and costs
a dozen small reads, so every start calls it, not only `--init-only`.

Values are kube-proxy's. Failing is not: kube-proxy ends when the first setting cannot be written, which is why it
needs a privileged container for as long as it runs. Here every setting is tried, each that could not be set is named
with what it is and what it should be, and the caller decides: `--init-only` ends with 1, a normal start warns and goes
on, because a short conntrack table hurts later and only under load, and no Services at all hurts now.
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
"""No more entries than this on account of many cores: a full table costs some 300 MiB. kube-proxy stops here too."""

ENTRIES_A_BUCKET = 4
"""The kernel's own ratio of nf_conntrack_max to hash buckets, which kube-proxy keeps."""

LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
ONLINE_CPUS = "sys/devices/system/cpu/online"
HASHSIZE = "sys/module/nf_conntrack/parameters/hashsize"


class Rule(enum.Enum):
    """When a value counts as good enough."""

    EXACT = "exact"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One setting. `path` is relative to the file system's root, `name` is what people call it."""

    path: str
    name: str
    value: int
    rule: Rule = Rule.EXACT

    def met_by(self, current: int | None) -> bool:
        """Whether there is nothing to write."""
        if current is None:
            return False
        return current >= self.value if self.rule is Rule.AT_LEAST else current == self.value


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that was written."""

    name: str
    before: int | None
    """None: it could not be read."""
    after: int

    def __str__(self) -> str:
        return f"{self.name}: {'unknown' if self.before is None else self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class HostReport:
    """What `prepare` did."""

    changed: tuple[Change, ...] = ()
    faults: tuple[str, ...] = ()
    """Settings that are not as they should be, one sentence each: name, current value, wanted value, reason."""
    notes: tuple[str, ...] = ()
    """Wishes that failed and cost nothing: worth a line at higher verbosity, never an exit code."""


def conntrack_max(conntrack: Conntrack, cores: int) -> int:
    """nf_conntrack_max for that many cores; 0 leaves it alone.

    As kube-proxy 1.37: maxPerCore 0 switches it off, `min` included. The limit stops what cores multiply; a larger
    `min` somebody wrote down is honoured where cores do not reach the limit.
    """
    if conntrack.max_per_core <= 0:
        return 0
    scaled = conntrack.max_per_core * cores
    return CONNTRACK_LIMIT if scaled > CONNTRACK_LIMIT else max(scaled, conntrack.min)


def wants_route_localnet(settings: Settings) -> bool:
    """Whether node ports are to answer on 127.0.0.1: asked for, and nodePortAddresses lets a loopback address in."""
    if not settings.iptables.localhost_node_ports:
        return False
    # As in kube-proxy, entries of the other family only say nothing about this one: it admits everything then.
    entries = [entry for entry in settings.node_port_addresses if ":" not in entry]
    return not entries or any(_admits_loopback(entry) for entry in entries)


def _admits_loopback(entry: str) -> bool:
    if entry in ("all", "localhost"):
        return True
    if entry == "primary":
        return False
    return ipaddress.IPv4Network(entry, strict=False).overlaps(LOOPBACK)


def wanted(settings: Settings, cores: int, *, route_localnet: bool = False) -> Iterator[Wanted]:
    """The settings a configuration asks for, in the order of writing."""
    conntrack = settings.conntrack
    entries = conntrack_max(conntrack, cores)
    if entries > 0:
        # Only ever upwards: both belong to the whole host, and others may need more than we do.
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
            # The kernel counts whole seconds. Below one, kube-proxy would write 0, and every entry would die at once.
            yield _sysctl(name, max(1, math.floor(seconds)))
    if conntrack.tcp_be_liberal:
        yield _sysctl(TCP_BE_LIBERAL, 1)
    if route_localnet and wants_route_localnet(settings):
        yield _sysctl(ROUTE_LOCALNET, 1)


def _sysctl(name: str, value: int, rule: Rule = Rule.EXACT) -> Wanted:
    return Wanted(f"proc/sys/{name}", f"sysctl {name.replace('/', '.')}", value, rule)


def cores(root: Path = Path("/")) -> int:
    """CPUs of the node. The conntrack table is the whole host's, so a container's or a pinned process's share of the
    CPUs says nothing; it is the fallback where the kernel does not tell."""
    try:
        online = parse_cpu_list((root / ONLINE_CPUS).read_text())
    except (OSError, ValueError):
        online = 0
    return online or len(os.sched_getaffinity(0))


def parse_cpu_list(text: str) -> int:
    """How many CPUs a list like `0-3,8,10-11` names. Raises `ValueError` for anything else."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        found.update(range(int(first), int(last if dash else first) + 1))
    return len(found)


def prepare(settings: Settings, root: Path = Path("/"), *, route_localnet: bool = False) -> HostReport:
    """Set what is not good enough yet. Never raises for what the host refuses: that is in the report.

    `route_localnet` is for `--init-only`, after which the daemon has no right to set it. At a normal start the daemon
    sets it itself, once the guard that keeps neighbours from 127.0.0.1 is in the kernel (CVE-2020-8558).
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
