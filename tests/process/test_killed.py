"""`ferrule run` is killed in the middle of its first write, and the next start completes it.

The program kills itself at a cause, so that each case strikes where it says, on any machine.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ferrule.testing.netns import NetNs, ip, small_transactions_only
from ferrule.testing.waiting import ended, eventually
from tests.objects import NODE, endpoint, endpoint_slice, service
from tests.process.ferrule import once, rules, strip, write

pytestmark = pytest.mark.netns

SERVICES, ENDPOINTS = 600, 4

PROGRAM = """
import os, signal, sys
patch, *arguments = sys.argv[1:]
calls = []
def die_at(call):
    calls.append(call)
    if len(calls) == call:
        os.kill(os.getpid(), signal.SIGKILL)
exec(patch)
from ferrule.cli import main
sys.exit(main(arguments))
"""

BEFORE_A_TRANSACTION = """
import ferrule.dataplane.nftables as nftables
transact = nftables._transact
nftables._transact = lambda *what: die_at({call}) or transact(*what)
"""
BEFORE_AN_ANSWER = """
import ferrule.dataplane.nftables as nftables
receive = nftables._receive
nftables._receive = lambda channel: die_at({call}) or receive(channel)
"""
BEFORE_A_TOOL = """
import ferrule.dataplane.iptables as iptables
iptables.RUN_BYTES = 1 << 16
run = iptables.IptablesDataplane._run
iptables.IptablesDataplane._run = lambda *what: die_at({call}) or run(*what)
"""
WHILE_A_TOOL_RUNS = """
import ferrule.process.runner as runner
start = runner._start
async def started(program, command, *files):
    child = await start(program, command, *files)
    if "--noflush" in command:
        die_at({call})
    return child
runner._start = started
"""


@dataclass(frozen=True)
class Case:
    backend: str
    patch: str
    call: int
    left: str
    """What the kernel holds when it is dead: see `held`. IPv4 is written first."""
    writes: str = "netlink"


CASES = {
    "netlink, nothing sent": Case("nft", BEFORE_A_TRANSACTION, 1, ""),
    "netlink, one table of three": Case("nft", BEFORE_A_TRANSACTION, 2, "chains"),
    "netlink, done and not confirmed": Case("nft", BEFORE_AN_ANSWER, 2, "chains rules hooks"),
    "netlink, one family of two": Case("nft", BEFORE_A_TRANSACTION, 4, "chains rules hooks"),
    "nft tool, nothing sent": Case("nft", BEFORE_A_TOOL, 1, "", "tool"),
    "nft tool, no hooks": Case("nft", BEFORE_A_TOOL, 2, "chains rules", "tool"),
    "nft tool, at work": Case("nft", WHILE_A_TOOL_RUNS, 1, "chains rules hooks", "tool"),
    "legacy, nothing sent": Case("legacy", BEFORE_A_TOOL, 1, ""),
    "legacy, at work": Case("legacy", WHILE_A_TOOL_RUNS, 1, "chains rules hooks"),
    "legacy, one family of two": Case("legacy", BEFORE_A_TOOL, 2, "chains rules hooks"),
}


def held(netns: NetNs, backend: str) -> str:
    """`chains` of ours, `rules` for each endpoint, `hooks` that lead there, `IPv6` chains; as far as they are there."""
    ipv4, ipv6 = rules(netns, backend), rules(netns, backend, "ip6tables")
    found = {
        "chains": ":KUBE-" in ipv4,
        "rules": ipv4.count("--to-destination") == SERVICES * ENDPOINTS,
        "hooks": "-A PREROUTING" in ipv4,
        "IPv6": ":KUBE-" in ipv6,
    }
    return " ".join(what for what, there in found.items() if there)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ips = [f"10.97.{n // 250}.{n % 250 + 1}" for n in range(SERVICES)]
    services = [service(f"s{n}", clusterIP=ip, clusterIPs=[ip], ipFamilies=["IPv4"]) for n, ip in enumerate(ips)]
    pods = [[endpoint(f"10.128.1.{(n + k) % 250 + 1}") for k in range(ENDPOINTS)] for n in range(SERVICES)]
    slices = [endpoint_slice(some, of=f"s{n}") for n, some in enumerate(pods)]
    write(tmp_path / "manifests", "all.json", [])
    (tmp_path / "manifests" / "all.json").write_text(json.dumps([NODE, *services, *slices]))
    return tmp_path / "manifests"


@pytest.mark.parametrize("name", CASES)
def test_killed_in_mid_write_then_a_new_start_converges(netns: NetNs, folder: Path, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    if why_not := small_transactions_only(case.backend):
        pytest.skip(why_not)
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        f"ferrule: {{nftWrites: {case.writes}}}\n"
    )
    arguments = ("--manifests", str(folder), "--hostname-override", "node-1", "--config", str(config))
    argv = (sys.executable, "-c", PROGRAM, case.patch.format(call=case.call), "run", "--backend", case.backend)
    child = netns.popen((*argv, *arguments))
    assert ended(child) == -signal.SIGKILL, "it was to be killed"
    # A tool at work ends its work.
    eventually(lambda: not ip("netns", "pids", netns.name).split(), "a tool goes on")
    assert held(netns, case.backend) == case.left
    # No rule points to a chain that does not exist (the kernel itself guarantees it): the text is restorable as it is.
    netns.run(f"iptables-{case.backend}-restore", "--test", stdin=rules(netns, case.backend))
    extra = ("--backend", case.backend, "--config", str(config))
    assert once(netns, folder, *extra).returncode == 0
    assert held(netns, case.backend) == "chains rules hooks IPv6"
    converged = rules(netns, case.backend)
    with NetNs("clean") as clean:
        assert once(clean, folder, *extra).returncode == 0
        assert sorted(strip(rules(clean, case.backend))) == sorted(strip(converged))
