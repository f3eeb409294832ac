"""Collectors that read their values at each scrape: the process, and packet counters of the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

UNLIMITED = float(2**64 - 1)
"""The value that Go's collector reports for "unlimited"."""


class ProcessExtras(Collector):
    """The three `process_*` families that Go programs have and prometheus_client does not.

    Network bytes are those of the network namespace, as in Go: on a node that is the host, not this process.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc

    def collect(self) -> Iterator[Metric]:
        """Yields the families that are readable."""
        limit = self._address_space_limit()
        if limit is not None:
            yield GaugeMetricFamily(
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
                value=limit,
            )
        octets = self._octets()
        for name, field, verb in (("receive", "InOctets", "received"), ("transmit", "OutOctets", "sent")):
            if field in octets:
                yield CounterMetricFamily(
                    f"process_network_{name}_bytes",
                    f"Number of bytes {verb} by the process over the network.",
                    value=octets[field],
                )

    def _address_space_limit(self) -> float | None:
        for line in self._lines("limits"):
            if line.startswith("Max address space"):
                soft = line.removeprefix("Max address space").split()[0]
                return UNLIMITED if soft == "unlimited" else float(soft)
        return None

    def _octets(self) -> dict[str, int]:
        """Returns the values of `IpExt:`, which has two lines, names and numbers."""
        rows = [line.split()[1:] for line in self._lines("net/netstat") if line.startswith("IpExt:")]
        return {name: int(number) for name, number in zip(*rows, strict=True)} if len(rows) == 2 else {}

    def _lines(self, name: str) -> list[str]:
        try:
            return (self._proc / name).read_text().splitlines()
        except OSError:
            return []


class PacketCounter(Collector):
    """A packet counter of the kernel. Omitted while it is unreadable, because a zero would be wrong."""

    def __init__(self, name: str, documentation: str, read: Callable[[], int | None]) -> None:
        """`read` returns the packets since the counter was created; it runs in the thread that renders."""
        self._name = name
        self._documentation = documentation
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Declares no metric, so that registration does not read the counter."""
        yield CounterMetricFamily(self._name, self._documentation)

    def collect(self) -> Iterator[Metric]:
        """Yields one sample, or none."""
        packets = self._read()
        family = CounterMetricFamily(self._name, self._documentation)
        if packets is not None:
            family.add_metric([], packets)
        yield family
