"""Recorded cluster histories: their content, and how to replay them with an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ferrule._engine import Engine
from ferrule.config import load_config
from ferrule.sync.options import HostFacts, engine_options
from ferrule.types import FAMILIES, KINDS, Family

CASES = Path(__file__).parent.parent / "cases"

ADDRESSES = ("127.0.0.1", "172.31.250.2", "::1", "fd00:255::2")
"""The node of the recordings."""


@dataclass(frozen=True)
class Case:
    name: str

    @property
    def folder(self) -> Path:
        return CASES / self.name

    @property
    def steps(self) -> list[int]:
        return sorted(int(f.name.split(".")[0].removeprefix("step")) for f in self.folder.glob("step*.objects.json"))

    def objects(self, step: int) -> bytes:
        return (self.folder / f"step{step}.objects.json").read_bytes()

    def saved(self, step: int, family: Family) -> str:
        return (self.folder / f"step{step}.{family}.save").read_text()

    def engine(self, *, ordered_blocks: bool = False, form: str = "auto") -> Engine:
        """Returns an engine with this case's configuration on the recorded node, with a layout of dispatch and
        balancing chains."""
        settings = load_config(self.folder / "config.yaml")
        settings = replace(settings, ferrule=replace(settings.ferrule, dispatch=form, balance=form))
        facts = HostFacts(
            node_name="node-1",
            ordered_blocks=ordered_blocks,
            nfacct_invalid_dropped=True,
            nfacct_localhost_accepted=True,
            conntrack_tcp_be_liberal=settings.conntrack.tcp_be_liberal,
        )
        engine = Engine(engine_options(settings, facts))
        engine.set_local_addresses(ADDRESSES)
        return engine


ALL = [Case(folder.name) for folder in sorted(CASES.iterdir()) if folder.is_dir()]


def load(engine: Engine, objects: bytes) -> None:
    """Loads the whole state of a step, as lists."""
    for kind in KINDS:
        engine.replace(kind, [objects])


def committed_payloads(engine: Engine) -> dict[Family, bytes]:
    """Plans both families and commits the plans."""
    payloads = {}
    for family in FAMILIES:
        plan = engine.plan(family)
        if plan is not None:
            payloads[family] = plan.payload
            engine.commit(plan)
    return payloads
