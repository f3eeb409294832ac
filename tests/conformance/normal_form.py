"""Converts iptables-save text to the normal form in which recorded and produced rules are compared.

Kept: chains of ferrule (not kubelet's, not canaries) in nat and filter, and rules of base chains that jump to them.
Dropped: counters, comments of the tool, policies. Order is kept inside a chain, except in dispatch chains, where each
rule belongs to one Service and order does not matter: there lines are sorted, the node port jump last.
"""

from __future__ import annotations

import re

UNORDERED = {"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"}
FOREIGN = ("KUBE-KUBELET", "KUBE-PROXY-CANARY", "KUBE-IPTABLES-HINT")
TAIL = "must be the last rule"


def normal_form(saved: str) -> str:
    out: list[str] = []
    for table in ("filter", "nat"):
        block = re.search(rf"^\*{table}\n(.*?)^COMMIT", saved, re.S | re.M)
        chains, rules = _read(block[1] if block else "")
        out.append(f"*{table}")
        for chain in sorted(chains | rules.keys()):
            out.append(f":{chain}")
            out += _ordered(chain, rules.get(chain, []))
    return "\n".join(out) + "\n"


def _read(block: str) -> tuple[set[str], dict[str, list[str]]]:
    chains: set[str] = set()
    rules: dict[str, list[str]] = {}
    for raw in block.splitlines():
        line = re.sub(r"^\[\d+:\d+\] ", "", raw)
        if line.startswith(":"):
            name = line[1:].split()[0]
            if name.startswith("KUBE-") and not name.startswith(FOREIGN):
                chains.add(name)
        elif line.startswith("-A "):
            chain = line.split()[1]
            target = re.search(r"-j (\S+)", line)
            ours = target is not None and target[1].startswith("KUBE-") and not target[1].startswith(FOREIGN)
            if chain in chains or ours:
                rules.setdefault(chain, []).append(line)
    return chains, rules


def _ordered(chain: str, lines: list[str]) -> list[str]:
    if chain not in UNORDERED:
        return lines
    tail = [line for line in lines if TAIL in line]
    ordered = sorted(line for line in lines if TAIL not in line) + sorted(tail)
    if tail and not all(TAIL in line for line in lines[-len(tail) :]):
        ordered.append("# the node port jump is NOT last")
    return ordered
