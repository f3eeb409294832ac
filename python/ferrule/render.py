"""`ferrule render`: prints the restore text for manifests, without a kernel, privileges or a cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ferrule._engine import Engine, Problem
from ferrule.config.schema import Settings
from ferrule.errors import InputError
from ferrule.observe.health import FAMILY_NAMES
from ferrule.source.folder import unknown_name
from ferrule.source.manifests.documents import Complaint, Manifest, parse
from ferrule.source.manifests.folder import ManifestFolder, as_list
from ferrule.sync.options import HostFacts, engine_options
from ferrule.types import FAMILIES, KINDS, Family


@dataclass(frozen=True, slots=True)
class Rendered:
    """Restore text by family, and the problems of the input."""

    texts: dict[Family, bytes]
    complaints: tuple[Complaint, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    """Warnings about input that is valid but probably a mistake."""


def render(paths: Sequence[str], settings: Settings, node_name: str, families: Sequence[Family] = FAMILIES) -> Rendered:
    """Renders manifests. `paths` are files, folders or `-` for standard input. Raises `InputError` for a missing one.

    The node's addresses come from its Node manifest; a current kernel with nfacct is assumed.
    """
    manifests, complaints = _gather(paths)
    facts = HostFacts(
        node_name=node_name,
        nfacct_invalid_dropped=True,
        nfacct_localhost_accepted=True,
        conntrack_tcp_be_liberal=settings.conntrack.tcp_be_liberal,
    )
    engine = Engine(engine_options(settings, facts))
    for kind in KINDS:
        engine.replace(kind, [as_list(manifests, kind)])
    node = engine.own_node()
    engine.set_local_addresses(["127.0.0.1", "::1", *(node.addresses if node is not None else ())])
    unknown = unknown_name(node_name, {manifest.name for manifest in manifests if manifest.kind == "Node"})
    warnings = [unknown] if unknown is not None else []
    texts: dict[Family, bytes] = {}
    for family in families:
        engine.observe(family, b"")
        plan = engine.plan(family)
        texts[family] = b"" if plan is None else plan.payload
        if engine.facts(family).node_port_addresses == 0:
            warnings.append(
                f"nodePortAddresses select no {FAMILY_NAMES[family]} address of node {node_name}: its node ports do "
                "not answer there"
            )
    return Rendered(texts, tuple(complaints), tuple(engine.problems()), tuple(warnings))


def _gather(paths: Sequence[str]) -> tuple[list[Manifest], list[Complaint]]:
    manifests: dict[str, Manifest] = {}
    complaints: list[Complaint] = []
    for path in paths:
        if path == "-":
            parsed = parse("standard input", sys.stdin.buffer.read())
            complaints += parsed.complaints
            found: Sequence[Manifest] = parsed.manifests
        else:
            state = asyncio.run(ManifestFolder(Path(path)).scan_finished())
            complaints += state.complaints
            found = state.manifests
        for manifest in found:
            manifests.setdefault(manifest.title, manifest)
    return list(manifests.values()), complaints


def require_families(value: str | None) -> Sequence[Family]:
    """Returns the families of `--family`; both without it."""
    if value is None:
        return FAMILIES
    for family in FAMILIES:
        if value == family:
            return (family,)
    raise InputError(f"--family: {value!r} is neither ipv4 nor ipv6")
