"""The kernel's edge on a real kernel, both backends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ferrule.cleanup import cleanup
from ferrule.dataplane import backend as backends
from ferrule.dataplane import nfacct
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.errors import DataplaneError, FailureKind
from ferrule.host import addresses
from ferrule.host.sysctl import ROUTE_LOCALNET, Sysctls
from ferrule.process.runner import Runner
from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import happened, soon
from ferrule.types import FAMILIES, Backend
from tests.conformance.replay import ALL, load

pytestmark = pytest.mark.netns


@pytest.fixture
def plane(netns: NetNs, backend: str) -> IptablesDataplane:
    return IptablesDataplane("ipv4", Backend(backend), Runner(netns.prefix))


def test_a_syntax_error_is_quoted_with_its_neighbours(plane: IptablesDataplane) -> None:
    payload = b"*nat\n:A - [0:0]\n-A A -j RETURN\n-A A --bogus\n-A A -j ACCEPT\nCOMMIT\n"
    with pytest.raises(DataplaneError) as caught:
        asyncio.run(plane.restore(payload))
    error = caught.value
    assert error.kind is FailureKind.SYNTAX
    assert "> line 4: -A A --bogus" in error.offending
    assert "  line 3: -A A -j RETURN" in error.offending
    assert "--bogus" in str(error)


def test_a_busy_chain_is_the_kernels_refusal(plane: IptablesDataplane) -> None:
    asyncio.run(plane.restore(b"*nat\n:A - [0:0]\n-A OUTPUT -j A\nCOMMIT\n"))
    with pytest.raises(DataplaneError) as caught:
        asyncio.run(plane.restore(b"*nat\n-X A\nCOMMIT\n"))
    assert caught.value.kind is FailureKind.KERNEL
    assert any("-X A" in line for line in caught.value.offending)


def test_the_first_of_two_tables_is_committed_when_the_second_is_bad(plane: IptablesDataplane) -> None:
    with pytest.raises(DataplaneError):
        asyncio.run(plane.restore(b"*filter\n:F - [0:0]\nCOMMIT\n*nat\n-A OUTPUT -j NOWHERE\nCOMMIT\n"))
    assert b":F - " in asyncio.run(plane.save())


def test_canaries_are_asked_for_in_every_table(plane: IptablesDataplane) -> None:
    assert not asyncio.run(plane.canary_present())
    text = "".join(f"*{t}\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n" for t in ("mangle", "nat", "filter"))
    asyncio.run(plane.restore(text.encode()))
    assert asyncio.run(plane.canary_present())
    asyncio.run(plane.restore(b"*nat\n-X KUBE-PROXY-CANARY\nCOMMIT\n"))
    assert not asyncio.run(plane.canary_present())


def test_a_legacy_table_that_did_not_change_is_not_read_again(netns: NetNs) -> None:
    tools: list[str] = []
    runner = Runner(observers=[lambda run: tools.append(run.tool)])
    tables = ("mangle", "nat", "filter")

    def questions(plane: IptablesDataplane) -> tuple[bool, int]:
        tools.clear()
        present = netns.call(lambda: asyncio.run(plane.canary_present()))
        return present, len(tools)

    for family in FAMILIES:
        elsewhere = IptablesDataplane(family, Backend.LEGACY, Runner(netns.prefix))
        plane = IptablesDataplane(family, Backend.LEGACY, runner)
        text = "".join(f"*{t}\n:KUBE-PROXY-CANARY - [0:0]\n:OTHER - [0:0]\nCOMMIT\n" for t in tables)
        asyncio.run(elsewhere.restore(text.encode()))
        assert questions(plane) == (True, 3)
        assert questions(plane) == (True, 0)
        asyncio.run(elsewhere.restore(b"*nat\n-A OTHER -j RETURN\nCOMMIT\n"))
        assert questions(plane) == (True, 1)
        asyncio.run(elsewhere.restore(b"*filter\n-A OTHER -j RETURN\nCOMMIT\n"))
        assert questions(plane) == (True, 1)
        asyncio.run(elsewhere.restore(b"*filter\n-X KUBE-PROXY-CANARY\nCOMMIT\n"))
        assert questions(plane) == (False, 1)
        assert questions(plane) == (False, 1)


def test_version_and_features(plane: IptablesDataplane) -> None:
    assert asyncio.run(plane.version()) >= (1, 8)
    assert asyncio.run(plane.supports_random_fully())


def test_without_rights_the_kind_is_permission(netns: NetNs, backend: str) -> None:
    runner = Runner((*netns.prefix, "setpriv", "--bounding-set=-all"))
    plane = IptablesDataplane("ipv4", Backend(backend), runner)
    netns.run(f"iptables-{backend}", "-t", "nat", "-N", "A")  # else legacy has no table that it could be refused
    with pytest.raises(DataplaneError) as caught:
        asyncio.run(plane.save())
    assert caught.value.kind is FailureKind.PERMISSION
    with pytest.raises(DataplaneError) as caught:
        asyncio.run(plane.restore(b"*nat\n:A - [0:0]\nCOMMIT\n"))
    # legacy's restore says only that it cannot initialise the table, which may mean anything.
    assert caught.value.kind is (FailureKind.PERMISSION if backend == "nft" else FailureKind.KERNEL)
    why = asyncio.run(plane.works())
    assert why is not None
    assert why.kind is FailureKind.PERMISSION


def test_nfacct_counters(netns: NetNs) -> None:
    name = nfacct.LOCALHOST_ACCEPTED
    assert netns.call(lambda: nfacct.read(name)) is None
    assert [netns.call(lambda: nfacct.ensure(name)) for _ in range(2)] == [nfacct.Outcome.YES] * 2
    assert netns.call(lambda: nfacct.read(name)) == nfacct.Count(0, 0)
    netns.run("iptables-nft", "-A", "OUTPUT", "-m", "nfacct", "--nfacct-name", name)
    netns.run("bash", "-c", "echo x > /dev/udp/127.0.0.1/9")
    count = netns.call(lambda: nfacct.read(name))
    assert count is not None
    assert count.packets >= 1


def test_addresses_and_their_changes(netns: NetNs) -> None:
    assert netns.call(addresses.local_addresses) == ["127.0.0.1", "::1"]

    subscribed = threading.Event()

    async def one_change() -> None:
        changes = addresses.address_changes()
        await anext(changes)
        subscribed.set()
        await soon(anext(changes))

    with ThreadPoolExecutor(1) as pool:
        # uvloop or not, the socket belongs to the thread's namespace.
        waiting = pool.submit(netns.call, lambda: asyncio.run(one_change()))
        happened(subscribed)
        netns.ip("addr", "add", "172.31.250.1/32", "dev", "lo")
        waiting.result()
    assert "172.31.250.1" in netns.call(addresses.local_addresses)


def test_an_address_added_before_the_subscription_is_reported(netns: NetNs) -> None:
    known = netns.call(addresses.local_addresses)
    netns.ip("addr", "add", "172.31.250.9/32", "dev", "lo")
    reported: list[list[str]] = []

    async def first_report() -> None:
        found = asyncio.Event()

        def on_change(now: list[str]) -> None:
            reported.append(now)
            found.set()

        following = asyncio.create_task(addresses.follow_addresses(known, on_change))
        try:
            await soon(found.wait())
        finally:
            following.cancel()

    netns.call(lambda: asyncio.run(first_report()))
    assert reported == [["127.0.0.1", "172.31.250.9", "::1"]]


def test_route_localnet(netns: NetNs) -> None:
    def inside() -> tuple[int | None, str | None, int | None]:
        s = Sysctls()
        return s.read(ROUTE_LOCALNET), s.ensure(ROUTE_LOCALNET, 1), s.read(ROUTE_LOCALNET)

    netns.run("tee", f"/proc/sys/{ROUTE_LOCALNET}", stdin="0")  # a new namespace has what the machine's own has
    assert netns.call(inside) == (0, None, 1)


def test_backend_choice_looks_but_does_not_touch(netns: NetNs) -> None:
    runner = Runner(netns.prefix)
    choice = asyncio.run(backends.choose(runner))
    assert (choice.backend, choice.other_holds_rules) == (Backend.NFT, False)
    assert netns.run("cat", "/proc/net/ip_tables_names").stdout == "", "asking must not create legacy tables"
    netns.run("iptables-legacy", "-t", "nat", "-N", "KUBE-SERVICES")
    assert asyncio.run(backends.choose(runner)).other_holds_rules
    netns.run("ip6tables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    assert asyncio.run(backends.choose(runner)).backend is Backend.LEGACY
    assert asyncio.run(backends.choose(runner, Backend.NFT)).reason == "asked for"


FOREIGN = (
    "*filter\n:DOCKER - [0:0]\n:KUBE-FIREWALL - [0:0]\n-A FORWARD -j DOCKER\n-A DOCKER -s 192.0.2.0/24 -j ACCEPT\n"
    "-A KUBE-FIREWALL -p udp -j DROP\nCOMMIT\n"
    "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
    "*nat\n:CUSTOM - [0:0]\n-A PREROUTING -j CUSTOM\nCOMMIT\n"
)


def strip(saved: bytes) -> list[str]:
    return sorted(line.split(" [")[0] for line in saved.decode().splitlines() if not line.startswith("#"))


@pytest.mark.parametrize(
    "case", [c for c in ALL if c.name in ("both-policies-local", "source-ranges", "random-7")], ids=lambda c: c.name
)
def test_cleanup_takes_ours_and_leaves_theirs(netns: NetNs, plane: IptablesDataplane, case: object) -> None:
    asyncio.run(plane.restore(FOREIGN.encode()))
    before = strip(asyncio.run(plane.save()))
    for name in (nfacct.INVALID_DROPPED, nfacct.LOCALHOST_ACCEPTED):
        netns.call(lambda name=name: nfacct.ensure(name))
    engine = case.engine()  # type: ignore[attr-defined]
    load(engine, case.objects(1))  # type: ignore[attr-defined]
    for family in ("ipv4", "ipv6"):
        other = IptablesDataplane(family, plane.backend, plane.runner)
        engine.observe(family, asyncio.run(other.save()))
        asyncio.run(other.restore(committed_payloads_of(engine, family)))
    report = asyncio.run(cleanup(plane.runner))
    assert report.problems == []
    assert {(r.backend, r.family, r.table) for r in report.removed} == {
        (plane.backend, f, t) for f in ("ipv4", "ipv6") for t in ("filter", "nat", "mangle")
    }
    left = [
        line for line in strip(asyncio.run(plane.save())) if "localnet" not in line and "-j KUBE-FIREWALL" not in line
    ]
    assert left == before
    again = asyncio.run(cleanup(plane.runner))
    assert (again.removed, again.problems) == ([], [])


def committed_payloads_of(engine: object, family: str) -> bytes:
    plan = engine.plan(family)  # type: ignore[attr-defined]
    engine.commit(plan)  # type: ignore[attr-defined]
    return plan.payload  # type: ignore[no-any-return]


def test_cleanup_goes_on_after_what_it_cannot_remove(plane: IptablesDataplane) -> None:
    text = (
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:MINE - [0:0]\n"
        "-A OUTPUT -j KUBE-SERVICES\n-A KUBE-SERVICES -j KUBE-SVC-AAAAAAAAAAAAAAAA\n"
        "-A KUBE-SVC-AAAAAAAAAAAAAAAA -j RETURN\n"
        "-A MINE -j KUBE-SVC-AAAAAAAAAAAAAAAA\nCOMMIT\n"
    )
    asyncio.run(plane.restore(text.encode()))
    report = asyncio.run(cleanup(plane.runner))
    assert len(report.problems) == 1
    assert "foreign rule jumps there: -A MINE -j KUBE-SVC-AAAAAAAAAAAAAAAA" in report.problems[0]
    saved = asyncio.run(plane.save()).decode()
    assert "KUBE-SERVICES" not in saved
    assert "-A KUBE-SVC" not in saved, "emptied, so that it does nothing any more"
    assert ":MINE" in saved
