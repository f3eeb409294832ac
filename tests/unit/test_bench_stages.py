"""The bench's table of stages, from the daemon's own scrape."""

from __future__ import annotations

import pytest
from bench import stages
from bench.startup import largest_tool

from ferrule.observe.exposition import render
from ferrule.observe.metrics import Metrics
from ferrule.process.child import Usage
from ferrule.process.runner import ToolRun
from ferrule.types import Stage


def scrape(metrics: Metrics) -> dict[str, float]:
    lines = (line for line in render(metrics.registry).body.decode().splitlines() if line[:1] not in ("#", ""))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_means_are_of_what_happened_in_between() -> None:
    metrics = Metrics({"version": "0.1.0"})
    metrics.stage(Stage.PLAN, 100.0, "ipv4")
    metrics.stage(Stage.OBSERVE, 100.0, "ipv4")
    before = scrape(metrics)
    metrics.stage(Stage.INGEST, 0.001)
    for seconds in (0.002, 0.004):
        metrics.stage(Stage.PLAN, seconds, "ipv4")
        metrics.stage(Stage.PLAN, 50.0, "ipv6")
        metrics.change_confirmed("ipv4", 10 * seconds)
    metrics.tool_ran("iptables-nft-restore", 0, seconds=0.01, cpu_seconds=0.008, max_rss=7 << 20)
    metrics.tool_ran("ip6tables-nft-restore", 0, seconds=0.01, cpu_seconds=1.0, max_rss=9 << 20)
    assert stages.between(before, scrape(metrics)) == pytest.approx(
        {"ingest ms": 1.0, "plan ms": 3.0, "arrival to kernel ms": 30.0, "tool CPU ms": 8.0, "tool peak MiB": 7.0}
    )


def test_the_largest_tool_is_one_whose_figure_is_its_own() -> None:
    def ran(tool: str, max_rss: int | None) -> ToolRun:
        return ToolRun(tool, 0, Usage(seconds=1.0, cpu_seconds=1.0, max_rss=max_rss))

    assert largest_tool([]) == "none ran"
    assert largest_tool([ran("iptables-nft", None)]) == "below this process's own peak (1 runs)"
    runs = [ran("iptables-nft", None), ran("iptables-nft-save", 300 << 20), ran("iptables-nft-restore", 200 << 20)]
    assert largest_tool(runs) == "iptables-nft-save, 300 MiB"
