"""Read-back on nft over netlink: it sees what iptables-nft-save shows, chain by chain, or says that it cannot.

Two looks at one kernel are compared inside one engine: what the first look showed is believed applied, so the second
one's drift is their difference.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Iterator

import pytest

from ferrule._engine import DriftReport, Engine, NotUnderstood, RuleReader, RulesChanged
from ferrule.dataplane import nfacct, nftables
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.testing.netns import NetNs, small_transactions_only
from ferrule.types import FAMILIES, Backend, Family
from tests.conformance.replay import ALL, Case, load

pytestmark = pytest.mark.netns

TOOL = {"ipv4": "iptables", "ipv6": "ip6tables"}
TABLES = ("filter", "nat", "mangle")


class Kernel:
    """The rules of one namespace on the nft backend."""

    def __init__(self, netns: NetNs) -> None:
        self.netns = netns

    def restore(self, family: Family, text: str, *flags: str) -> None:
        self.netns.run(f"{TOOL[family]}-nft-restore", *flags, stdin=text)

    def wipe(self) -> None:
        for family in FAMILIES:
            self.restore(family, "".join(f"*{table}\nCOMMIT\n" for table in TABLES))

    def save(self, family: Family) -> bytes:
        return self.netns.run(f"{TOOL[family]}-nft-save").stdout.encode()

    def by_tool(self, engine: Engine, family: Family) -> DriftReport:
        return engine.observe(family, self.save(family))

    def by_netlink(self, engine: Engine, family: Family) -> DriftReport:
        reader = engine.rule_reader(family)
        self.netns.call(lambda: nftables.read_in_thread(reader, threading.Event()))
        return engine.observe(family, reader)

    def agrees(self, engine: Engine, family: Family) -> None:
        """Both ways of looking show the same chains, digests, hooks and holds."""
        self.by_tool(engine, family)
        netlink, tool = self.by_netlink(engine, family), self.by_tool(engine, family)
        for report in (netlink, tool):
            assert (report.differing, report.missing) == ((), ())
        assert facts(netlink) == facts(tool)

    def read_back(self, engine: Engine, family: Family) -> bytes | RuleReader:
        """As the daemon does. No prefix before the tool: it and netlink shall be in the same namespace."""
        plane, reader = IptablesDataplane(family, Backend.NFT), engine.rule_reader(family)
        return self.netns.call(lambda: asyncio.run(plane.read_back(reader)))


def facts(report: DriftReport) -> tuple[tuple[str, ...], ...]:
    return report.stale, report.held, report.entry_jumps_missing


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with NetNs("readback") as netns:
        for name in (nfacct.INVALID_DROPPED, nfacct.LOCALHOST_ACCEPTED):
            assert netns.call(lambda name=name: nfacct.ensure(name)) is nfacct.Outcome.YES
        yield Kernel(netns)


@pytest.fixture
def empty(kernel: Kernel) -> Kernel:
    kernel.wipe()
    return kernel


def planned(case: Case, step: int, dispatch: str = "auto") -> tuple[Engine, dict[Family, str]]:
    """An engine that wants what the case asks for, and the text that would write it."""
    engine = case.engine(form=dispatch)
    load(engine, case.objects(step))
    payloads: dict[Family, str] = {}
    for family in FAMILIES:
        engine.observe(family, b"")
        plan = engine.plan(family)
        assert plan is not None
        payloads[family] = plan.payload.decode()
        engine.abandon(plan)
    return engine, payloads


def recorded(case: Case, step: int, family: Family) -> str:
    """What stock kube-proxy wrote, as restore text."""
    out = ""
    for block in re.split(r"^(?=\*)", case.saved(step, family), flags=re.M)[1:]:
        table, *lines = block.splitlines()
        chains = [f"{line} {'-' if line.startswith(':KUBE-') else 'ACCEPT'} [0:0]" for line in lines if line[0] == ":"]
        out += "\n".join([table, *chains, *(line for line in lines if line[0] == "-"), "COMMIT", ""])
    return out


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_netlink_shows_what_the_tool_shows(empty: Kernel, case: Case) -> None:
    why_not = small_transactions_only("nft") if case.name.startswith("large-") else None
    if why_not:
        pytest.skip(why_not)
    for step in case.steps:
        for dispatch in ("flat", "tree"):
            engine, payloads = planned(case, step, dispatch)
            for family in FAMILIES:
                empty.restore(family, recorded(case, step, family))
                empty.agrees(engine, family)
                empty.restore(family, payloads[family])
                empty.agrees(engine, family)
                assert engine.plan(family) is None, "our own rules are recognised"


MUTATIONS = [
    ("a mark", r"--set-xmark 0x4000/0x4000", "--set-xmark 0x8000/0x8000"),
    ("a mask", r"--set-xmark 0x4000/0x0", "--set-xmark 0x4000/0x4000"),
    ("a compared mark", r"! --mark 0x4000/0x4000", "! --mark 0x2000/0x6000"),
    ("a negation", r"! --mark", "--mark"),
    ("a negated source", r"! -s 10\.128\.0\.0/10", "-s 10.128.0.0/10"),
    ("a prefix length", r"! -s 10\.128\.0\.0/10", "! -s 10.128.0.0/12"),
    ("an address", r"-d 10\.96\.10\.1/32", "-d 10.96.10.11/32"),
    ("a host for a network", r"-s (10\.128\.\d+\.\d+)/32", r"-s \1/31"),
    ("a comment", r"kubernetes forwarding rules", "kubernetes forwarding rule"),
    ("a missing comment", r"-m comment --comment \"kubernetes forwarding conntrack rule\" ", ""),
    ("a port", r"--dport 80 ", "--dport 81 "),
    ("a protocol", r"-p tcp (.*) -m tcp --dport 80 ", r"-p udp \1 -m udp --dport 80 "),
    ("a port range", r"-m tcp --dport 80 ", "-m tcp --dport 80:95 "),
    ("a port range from nothing", r"-m tcp --dport 80 ", "-m tcp --dport 0:4095 "),
    ("an endpoint's port", r"--to-destination (\S+):8080", r"--to-destination \1:8081"),
    ("an endpoint's address", r"--to-destination 10\.128\.", "--to-destination 10.129."),
    ("a probability", r"--probability 0\.5\d*", "--probability 0.49999999953"),
    ("a state", r"--ctstate RELATED,ESTABLISHED -j ACCEPT", "--ctstate NEW -j ACCEPT"),
    ("a verdict", r"-j ACCEPT$", "-j DROP"),
    ("another verdict", r"-j RETURN$", "-j ACCEPT"),
    ("a target", r"(-A KUBE-FORWARD .*) -j ACCEPT$", r"\1 -j REJECT"),
    ("less randomness", r"MASQUERADE --random-fully", "MASQUERADE"),
    ("a jump", r"-j KUBE-MARK-MASQ$", "-j KUBE-PROXY-CANARY"),
    ("no target", r" -j KUBE-MARK-MASQ$", ""),
    ("a list", r"--set --name KUBE-SEP-\w{15}", "--set --name KUBE-SEP-AAAAAAAAAAAAAAA"),
    ("seconds", r"--seconds (\d)", r"--seconds 1\1"),
    ("a counter", r"ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"),
    ("a side", r"--src-type LOCAL", "--dst-type LOCAL"),
    ("an interface", r"-i cbr0", "-i cbr1"),
    ("a wildcard", r"-i veth\+", "-i veth"),
    ("the order", r"^(-A KUBE-SEP-.*)\n(-A KUBE-SEP-.*)$", r"\2\n\1"),
    ("one rule twice", r"^(-A KUBE-SVC-.*)$", r"\1\n\1"),
    ("one rule less", r"^-A KUBE-SVC-.*\n", ""),
]


@pytest.mark.parametrize(("what", "pattern", "instead"), MUTATIONS, ids=[m[0] for m in MUTATIONS])
def test_one_changed_word_is_noticed(empty: Kernel, what: str, pattern: str, instead: str) -> None:
    """In the first case whose rules have such a word. Netlink names the chain that the tool names."""
    for case in ALL:
        text = planned(case, 1, "flat")[1]["ipv4"]
        found = re.search(pattern, text, re.M)
        if found and not case.name.startswith("large-"):
            break
    else:
        pytest.fail(f"no case has {what}")
    changed = text[: found.start()] + re.sub(pattern, instead, found[0], flags=re.M) + text[found.end() :]
    by_netlink, by_tool = planned(case, 1, "flat")[0], planned(case, 1, "flat")[0]
    empty.restore("ipv4", text)
    empty.by_netlink(by_netlink, "ipv4")
    empty.by_tool(by_tool, "ipv4")
    empty.wipe()
    empty.restore("ipv4", changed)
    seen = empty.by_netlink(by_netlink, "ipv4")
    assert len(seen.differing) == 1
    assert seen.differing == empty.by_tool(by_tool, "ipv4").differing


FOREIGN = (
    "*filter\n:DOCKER - [0:0]\n:OTHER - [0:0]\n"
    "-A FORWARD -m limit --limit 3/min -j DOCKER\n-A DOCKER -m multiport -p tcp --dports 1,2 -j RETURN\n"
    "-A OTHER -j DROP\nCOMMIT\n"
    "*nat\n:MINE - [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:KUBE-SVC-BBBBBBBBBBBBBBBB - [0:0]\n"
    ":KUBE-SVC-CCCCCCCCCCCCCCCC - [0:0]\n:KUBE-SVC-DDDDDDDDDDDDDDDD - [0:0]\n"
    "-A MINE -j KUBE-SVC-AAAAAAAAAAAAAAAA\n-A MINE -m limit --limit 3/min -j KUBE-SVC-BBBBBBBBBBBBBBBB\n"
    "-A MINE -p tcp -g KUBE-SVC-CCCCCCCCCCCCCCCC\nCOMMIT\n"
)


def test_foreign_rules_matter_for_where_they_lead(empty: Kernel) -> None:
    engine, payloads = planned(ALL[0], 1)
    empty.restore("ipv4", payloads["ipv4"])
    empty.restore("ipv4", FOREIGN, "--noflush")
    empty.agrees(engine, "ipv4")
    report = empty.by_netlink(engine, "ipv4")
    assert report.held == tuple(f"nat KUBE-SVC-{letter * 16}" for letter in "ABC")
    assert report.stale == ("nat KUBE-SVC-DDDDDDDDDDDDDDDD",)


def test_a_missing_hook_is_noticed(empty: Kernel) -> None:
    engine, payloads = planned(ALL[0], 1)
    empty.restore("ipv4", payloads["ipv4"])
    assert empty.by_netlink(engine, "ipv4").entry_jumps_missing == ()
    empty.netns.run("iptables-nft", "-t", "nat", "-F", "PREROUTING")
    (missing,) = empty.by_netlink(engine, "ipv4").entry_jumps_missing
    assert missing.startswith("nat -I PREROUTING")
    empty.agrees(engine, "ipv4")


NOT_OURS = [
    ("KUBE-FORWARD", "filter", "-m limit --limit 3/min -j ACCEPT", "limit"),
    ("KUBE-MARK-MASQ", "nat", "-m time --timestart 10:00 -j RETURN", "match time of revision 0"),
    ("KUBE-MARK-MASQ", "nat", "-p icmp -j RETURN", "cmp"),
    (
        "KUBE-SERVICES",
        "nat",
        "-d 192.0.2.1/32 -j DNAT --to-destination 192.0.2.2 --random",
        "target DNAT of revision 2",
    ),
    ("INPUT", "filter", "-m limit --limit 3/min -j KUBE-NODEPORTS", "limit"),
]


@pytest.mark.parametrize(("chain", "table", "rule", "expression"), NOT_OURS, ids=[n[3] for n in NOT_OURS])
def test_rules_that_are_not_understood_are_read_with_the_tool(
    empty: Kernel, caplog: pytest.LogCaptureFixture, chain: str, table: str, rule: str, expression: str
) -> None:
    engine, payloads = planned(ALL[0], 1)
    empty.restore("ipv4", payloads["ipv4"])
    empty.by_netlink(engine, "ipv4")
    empty.restore("ipv4", f"*{table}\n-I {chain} {rule}\nCOMMIT\n", "--noflush")
    with pytest.raises(NotUnderstood, match=f"{table} {chain} has a rule with an unknown expression: {expression}"):
        empty.by_netlink(engine, "ipv4")
    with caplog.at_level(logging.WARNING):
        seen = empty.read_back(engine, "ipv4")
    assert isinstance(seen, bytes)
    (record,) = caplog.records
    assert expression in str(record.__dict__)
    report = engine.observe("ipv4", seen)
    assert report.differing == (() if chain == "INPUT" else (f"{table} {chain}",))


def test_the_dataplane_reads_over_netlink(empty: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    engine, payloads = planned(ALL[0], 1)
    for family in FAMILIES:
        empty.restore(family, payloads[family])
        with caplog.at_level(logging.WARNING):
            seen = empty.read_back(engine, family)
        assert not isinstance(seen, bytes)
        engine.observe(family, seen)
        assert engine.plan(family) is None
    assert caplog.records == []


def test_rules_that_never_hold_still(empty: Kernel) -> None:
    """A read begins again when the rules' generation changes under it, and ends when that goes on."""
    engine, payloads = planned(ALL[0], 1)
    empty.restore("ipv4", payloads["ipv4"])
    reader = engine.rule_reader("ipv4")

    class Changing:
        """Changes the rules once in each conversation, after the chains were listed."""

        family = "ipv4"
        conversations = fed = 0

        def begin(self) -> bytes:
            self.conversations += 1
            self.fed = 0
            return reader.begin()

        def feed(self, datagram: bytes) -> bytes | None:
            self.fed += 1
            if self.fed == 4 and self.conversations <= self.disturbed:
                empty.netns.run("ip6tables-nft", "-t", "mangle", "-A", "INPUT", "-j", "ACCEPT")
            return reader.feed(datagram)

        disturbed = 2

    changing = Changing()
    empty.netns.call(lambda: nftables.read_in_thread(changing, threading.Event()))  # type: ignore[arg-type]
    assert changing.conversations == 3
    engine.observe("ipv4", reader)
    assert engine.plan("ipv4") is None
    changing = Changing()
    changing.disturbed = 99
    with pytest.raises(RulesChanged):
        empty.netns.call(lambda: nftables.read_in_thread(changing, threading.Event()))  # type: ignore[arg-type]
    assert changing.conversations == nftables.ATTEMPTS
