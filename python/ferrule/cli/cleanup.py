"""`ferrule cleanup` and `ferrule run --cleanup`."""

from __future__ import annotations

import asyncio

from ferrule.cleanup import cleanup as remove
from ferrule.cli.stderr import complain
from ferrule.dataplane.instance import running
from ferrule.process.runner import Runner


def cleanup() -> int:
    """Removes all rules of ferrule and prints what was removed. Returns 1 if something could not be removed."""
    daemon = running()
    if daemon is not None:
        complain(f"warning: {daemon} is running in this network namespace and writes its rules again; stop it first")
    report = asyncio.run(remove(Runner()))
    for r in report.removed:
        print(f"{r.backend.value} {r.family} {r.table}: removed {r.chains} chains and {r.jumps} jumps to them")
    if not report.removed and not report.problems:
        print("nothing to remove")
    for problem in report.problems:
        complain(problem)
    return 1 if report.problems else 0
