"""A start over rules of kube-proxy recognises correct rules and does not change them.

Needs no kernel: the recorded text is passed to the engine as output of iptables-save.
"""

from __future__ import annotations

import pytest

from ferrule.types import FAMILIES
from tests.conformance.replay import ALL, Case, load

CANARIES = {f"{table} KUBE-PROXY-CANARY" for table in ("filter", "nat", "mangle")}


def as_saved(normal: str) -> bytes:
    """Returns the recorded normal form as restore text (it omits policies and COMMIT)."""
    lines: list[str] = []
    for line in normal.splitlines():
        if line.startswith("*") and lines:
            lines.append("COMMIT")
        if line.startswith(":"):
            policy = "-" if line.startswith(":KUBE-") else "ACCEPT"
            lines.append(f"{line} {policy} [0:0]")
        else:
            lines.append(line)
    return "\n".join([*lines, "COMMIT", ""]).encode()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_stock_rules_are_left_alone(case: Case) -> None:
    for step in case.steps:
        engine = case.engine()
        load(engine, case.objects(step))
        for family in FAMILIES:
            engine.observe(family, as_saved(case.saved(step, family)))
            plan = engine.plan(family)
            assert plan is not None, "the recordings leave out the canaries, so these must be written"
            assert set(plan.chains_written) == CANARIES
            assert plan.chains_deleted == ()
            assert plan.entry_jumps_inserted == ()


@pytest.mark.parametrize("case", ALL[::7], ids=lambda case: case.name)
def test_one_foreign_rule_is_noticed(case: Case) -> None:
    """A single rule that stock kube-proxy would not write is reported."""
    step = case.steps[0]
    engine = case.engine()
    load(engine, case.objects(step))
    saved = as_saved(case.saved(step, "ipv4"))
    changed = saved.replace(b"-A KUBE-MARK-MASQ -j MARK", b"-A KUBE-MARK-MASQ -p tcp -j MARK")
    assert changed != saved
    engine.observe("ipv4", changed)
    plan = engine.plan("ipv4")
    assert plan is not None
    assert set(plan.chains_written) == CANARIES | {"nat KUBE-MARK-MASQ"}
