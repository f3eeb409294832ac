"""Rows of a running daemon: one change, changes during churn, a thousand at once, a flood, idle.

Latency is measured at a client: from the API write to the first new connection that the new Pod answers. The client
sends hundreds of requests per second, so its own share is some two milliseconds. It is an upper bound of "rule in the
kernel".
"""

from __future__ import annotations

import os
import random
import signal
import time

from bench import shapes, usage
from bench.ground import Setting
from bench.probe import Answers, Unfinished
from bench.stats import percentile
from bench.verify import WrongRules

LEAST, MOST = 10, 100
"""Maximum number of changes of one row. p99 of fewer than a hundred is the slowest."""

ONE_CHANGE = 60.0
CALM = 45.0
"""Seconds. ferrule returns memory to the system once it has been idle for about twenty."""

HISTOGRAMS = {
    "sync ms": "kubeproxy_sync_proxy_rules_duration_seconds",
    "change to kernel ms": "ferrule_change_to_kernel_duration_seconds",
}
"""Means of the daemons' own histograms, in addition to the client's latency."""

AT_ONCE = 1_000
FIRST_GENERATION = 1_000


def change(setting: Setting, budget: float) -> dict[str, float]:
    """Changes one endpoint after the other, in an idle cluster."""
    return _moves(setting, budget, MOST)


def _moves(setting: Setting, budget: float, most: int) -> dict[str, float]:
    pid = setting.proxy.running.pid
    gaps = random.Random(2)  # noqa: S311 - the same rows each time
    taken: list[float] = []
    with setting.probe.asking(ONE_CHANGE) as answers:
        used, before = usage.cpu(pid), setting.proxy.metrics()
        end = time.monotonic() + budget
        while len(taken) < most and (len(taken) < LEAST or time.monotonic() < end):
            taken.append(1000 * _move(setting, answers))
            time.sleep(gaps.uniform(0.05, 0.2))
        used, after = usage.cpu(pid) - used, setting.proxy.metrics()
    values = {
        "p50 ms": percentile(taken, 50),
        "p99 ms": percentile(taken, 99),
        "changes": float(len(taken)),
        "CPU ms a change": 1000 * used.all / len(taken),
        "RSS peak MiB": usage.peak_mib(pid),
    }
    for name, histogram in HISTOGRAMS.items():
        (seconds, count), (sooner, fewer) = _sums(after, histogram), _sums(before, histogram)
        if count > fewer:
            values[name] = 1000 * (seconds - sooner) / (count - fewer)
    return values


def _move(setting: Setting, answers: Answers) -> float:
    request, who = setting.probe.move()
    begun = setting.writer.send(request)
    return answers.wait_for(who, ONE_CHANGE) - begun


def _sums(metrics: dict[str, float], histogram: str) -> tuple[float, float]:
    """Returns seconds and number of IPv4 samples of the daemon's own histogram; zeros if it has none."""
    found = [0.0, 0.0]
    for name, value in metrics.items():
        for i, part in enumerate(("sum", "count")):
            if name.startswith(f"{histogram}_{part}{{") and 'ip_family="IPv4"' in name:
                found[i] += value
    return found[0], found[1]


def churn(setting: Setting, percent_a_minute: float, seconds: float) -> dict[str, float]:
    """Changes endpoints during a rolling update of the whole cluster."""
    rate, writes, back = shapes.rolling_update(setting.shape, percent_a_minute, seconds)
    pid = setting.proxy.running.pid
    used, since = usage.cpu(pid), time.monotonic()
    with setting.ground.sending(writes, rate) as sender:
        values = _moves(setting, seconds, MOST * 10)
        while sender.poll() is None:
            time.sleep(0.05)
        if sender.returncode:
            raise RuntimeError(f"writing failed: {sender.stderr.read()[-300:] if sender.stderr else ''}")
    passed = time.monotonic() - since
    used = usage.cpu(pid) - used
    values |= {"writes a second": rate, "CPU percent": 100 * used.all / passed}
    setting.ground.send(back)
    settle(setting, 2.0)
    setting.checked_in_time(ONE_CHANGE)
    return values


def burst(setting: Setting, patience: float) -> dict[str, float]:
    """Changes a thousand Services at once: written while the daemon is stopped, timed from SIGCONT."""
    count = min(AT_ONCE, setting.shape.services)
    numbers = range(setting.shape.services - count, setting.shape.services)
    changed = {number: shapes.replaced(setting.shape, number, FIRST_GENERATION) for number in numbers}
    writes = [shapes.patch(setting.shape, number, ips) for number, ips in changed.items()]
    process = setting.proxy.running
    with setting.probe.asking(ONE_CHANGE) as answers:
        used = usage.cpu(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            setting.ground.send(writes)
            request, who = setting.probe.move()
            setting.writer.send(request)
        finally:
            since, begun = time.monotonic(), time.time()
            os.kill(process.pid, signal.SIGCONT)
        # The last write; earlier ones may still be in progress in the same sync.
        felt = answers.wait_for(who, patience) - since
    while True:
        settle(setting, 1.0)
        done = max(felt, setting.proxy.last_sync() - begun)
        try:
            setting.contains(changed)
            break
        except WrongRules as wrong:
            if time.monotonic() - since > patience:
                raise Unfinished(patience, str(wrong)) from wrong
    used = usage.cpu(process.pid) - used
    values = {
        "seconds": done,
        "Services": float(count),
        "CPU seconds": used.all,
        "RSS peak MiB": usage.peak_mib(process.pid),
    }
    setting.ground.send(
        shapes.patch(setting.shape, number, shapes.replaced(setting.shape, number, 0)) for number in numbers
    )
    settle(setting, 2.0)
    setting.checked_in_time(patience)
    return values


def settle(setting: Setting, seconds: float) -> None:
    """Waits until no sync ended for a number of seconds."""
    last, since = setting.proxy.last_sync(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.2)
        now = setting.proxy.last_sync()
        if now != last:
            last, since = now, time.monotonic()


def flood(setting: Setting, changes: int) -> dict[str, float]:
    """Replaces endpoints as fast as the API accepts changes, then restores them and checks that nothing is left."""
    shape, pid = setting.shape, setting.proxy.running.pid

    def there_and_back(count: int) -> list[shapes.Request]:
        out = [
            shapes.patch(shape, n % shape.services, shapes.replaced(shape, n % shape.services, 1 + n // shape.services))
            for n in range(count)
        ]
        touched = range(min(count, shape.services))
        return out + [shapes.patch(shape, n, shapes.replaced(shape, n, 0)) for n in touched]

    # A tenth first: one-time growth of allocators and caches does not count.
    setting.ground.send(there_and_back(changes // 10))
    settle(setting, CALM)
    before, used = usage.rss_mib(pid), usage.cpu(pid)
    chains = setting.check()
    sent = there_and_back(changes)
    seconds = setting.ground.send(sent)
    settle(setting, CALM)
    used = usage.cpu(pid) - used
    after = setting.check()
    if after != chains:
        raise WrongRules(f"before {chains}, after {after}")
    return {
        "changes": float(len(sent)),
        "changes a second": len(sent) / seconds,
        "CPU seconds": used.all,
        "RSS before MiB": before,
        "RSS after MiB": usage.rss_mib(pid),
        "RSS peak MiB": usage.peak_mib(pid),
    }


def idle(setting: Setting, seconds: float, calm: float = 10.0) -> dict[str, float]:
    """Measures the idle daemon."""
    pid = setting.proxy.running.pid
    settle(setting, calm)
    before, used, since = usage.rss_mib(pid), usage.cpu(pid), time.monotonic()
    time.sleep(seconds)
    used, passed = usage.cpu(pid) - used, time.monotonic() - since
    return {
        "seconds": passed,
        "CPU percent": 100 * used.own / passed,
        "CPU percent with children": 100 * used.all / passed,
        "RSS before MiB": before,
        "RSS after MiB": usage.rss_mib(pid),
    }
