"""`ferrule cleanup` and `ferrule run --cleanup`."""

from __future__ import annotations

import asyncio
import sys

from ferrule.cleanup import cleanup as remove
from ferrule.process.runner import Runner


def cleanup() -> int:
    """Remove all rules of ours and say what was done. 1 if something could not be removed; the rest was, then."""
    report = asyncio.run(remove(Runner()))
    for r in report.removed:
        print(f"{r.backend.value} {r.family} {r.table}: removed {r.chains} chains and {r.jumps} jumps to them")
    if not report.removed and not report.problems:
        print("nothing of ours was there")
    for problem in report.problems:
        print(f"ferrule: {problem}", file=sys.stderr)
    return 1 if report.problems else 0
