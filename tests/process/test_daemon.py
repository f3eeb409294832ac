"""Tests a running daemon's HTTP endpoints, systemd notifications and conntrack clean-up, and what ends it."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ferrule.testing.daemon import Ferrule
from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import PATIENCE, eventually
from tests.netns.flows import Flow, insert, table
from tests.objects import NODE, V4, endpoint, endpoint_slice, service
from tests.process.ferrule import get, rules, write

pytestmark = pytest.mark.netns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "manifests", "web.yaml", [NODE, service(), endpoint_slice([endpoint("10.128.1.10")])])
    return tmp_path / "manifests"


def config(path: Path, **fields: Any) -> Path:
    path.write_text(
        json.dumps(
            {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
            | {"mode": "iptables", "conntrack": {"maxPerCore": 0, "min": 0}}
            | fields
        )
    )
    return path


def test_ports_answer_and_numbers_move(netns: NetNs, folder: Path) -> None:
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv6")
        status, body = eventually(lambda: get(netns, 10256, "/readyz"))
        assert (status, json.loads(body)) == (200, {"ready": True, "reasons": {}})
        for path in ("/healthz", "/livez"):
            status, body = get(netns, 10256, path)
            assert status == 200
            assert set(json.loads(body)["status"]) == {"IPv4", "IPv6"}
        assert get(netns, 10249, "/proxyMode") == (200, b"iptables")
        assert "KubeProxyConfiguration" in get(netns, 10249, "/configz")[1].decode()

        def samples() -> dict[str, float]:
            text = get(netns, 10249, "/metrics")[1].decode()
            return {m[1]: float(m[2]) for m in re.finditer(r"^(\S+) (\S+)$", text, re.MULTILINE) if m[1] != "#"}

        before = samples()
        kept = rules(netns, "nft")
        nat = len([line for line in kept.splitlines() if line.startswith("-A KUBE-")])
        tables = ("filter", "nat", "mangle")
        total = sum(
            before[f'kubeproxy_sync_proxy_rules_iptables_total{{ip_family="IPv4",table="{table}"}}'] for table in tables
        )
        # KUBE-FIREWALL is shared with kubelet and not counted.
        assert total == nat - kept.count("\n-A KUBE-FIREWALL")
        assert before['ferrule_store_objects{kind="Service"}'] == 1
        write(folder, "web.yaml", [NODE, service(), endpoint_slice([endpoint("10.128.1.10"), endpoint("10.128.1.11")])])
        name = 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}'
        eventually(lambda: samples()[name] > before[name])
        partial = 'kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}'
        after = samples()
        assert after[partial] > before.get(partial, 0)
        # The change's way, stage by stage, and the one transaction that it took.
        for stage in ("wait", "plan", "restore", "commit"):
            series = f'ferrule_stage_duration_seconds_count{{ip_family="IPv4",stage="{stage}"}}'
            assert after[series] == before[series] + 1, stage
        way = 'ferrule_change_to_kernel_duration_seconds_count{ip_family="IPv4"}'
        assert after[way] == before[way] + 1
        transactions = 'ferrule_netlink_transactions_total{ip_family="IPv4",result="ok"}'
        assert after[transactions] == before[transactions] + 1
        assert not any(series.startswith("ferrule_tool_runs") and "restore" in series for series in after)


def test_with_the_tool_its_runs_are_counted(netns: NetNs, folder: Path, tmp_path: Path) -> None:
    settings = config(tmp_path / "config.yaml", ferrule={"nftWrites": "tool"})
    with Ferrule(netns, folder, "--backend", "nft", "--config", str(settings)) as daemon:
        daemon.wait_for("Starting ferrule", 'writes="iptables-nft-restore"')
        daemon.wait_for('"Synced"', "ipv6")
        text = get(netns, 10249, "/metrics")[1].decode()
        for series in ('runs_total{result="ok",', "cpu_seconds_total{"):
            found = re.search(
                rf"^ferrule_tool_{re.escape(series)}tool=\"iptables-nft-restore\"}} (\S+)$", text, re.MULTILINE
            )
            assert found is not None, series
            assert float(found[1]) > 0, series
        assert "ferrule_netlink_transactions_total{" not in text


def test_a_name_that_no_node_has_is_said(netns: NetNs, folder: Path) -> None:
    write(folder, "web.yaml", [service(), endpoint_slice([endpoint("10.128.1.10")])])
    other_node = NODE | {"metadata": {"name": "node-2"}}
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for("No Node has this node's name", 'node="node-1"', "there is no Node")
        daemon.wait_for("Listening", 'server="health"')
        eventually(lambda: get(netns, 10256, "/readyz")[0] == 200)
        write(folder, "node.yaml", [other_node])
        daemon.wait_for("No Node has this node's name", 'node="node-1"', "the Nodes are node-2")
        assert json.loads(get(netns, 10256, "/readyz")[1])["reasons"] == {"node": "no Node has this node's name"}
        assert "10.128.1.10:8080" in rules(netns, "nft"), "traffic goes on"
        write(folder, "node.yaml", [other_node, NODE])
        eventually(lambda: get(netns, 10256, "/readyz")[0] == 200)


def test_node_port_addresses_that_match_nothing_are_said(netns: NetNs, folder: Path, tmp_path: Path) -> None:
    path = config(tmp_path / "config.conf", nodePortAddresses=["198.51.100.0/24", "::/0"])
    words = "nodePortAddresses select no address of this host"
    with Ferrule(netns, folder, "--config", str(path), "--backend", "nft") as daemon:
        daemon.wait_for(words, 'ipFamily="ipv4"')
        daemon.wait_for('"Synced"', "ipv6")
        mark = len(daemon.log)
        netns.ip("address", "add", "198.51.100.7/32", "dev", "lo")
        daemon.wait_for("nodePortAddresses select an address of this host again", 'ipFamily="ipv4"', after=mark)
        assert [line for line in daemon.log if words in line and "ipv6" in line] == []
        netns.ip("address", "del", "198.51.100.7/32", "dev", "lo")
        daemon.wait_for(words, 'ipFamily="ipv4"', after=mark)


def test_a_drained_node_is_said_in_the_folder_too(netns: NetNs, folder: Path) -> None:
    drained = NODE | {"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv6")
        write(folder, "node.yaml", [drained])
        write(folder, "web.yaml", [service(), endpoint_slice([endpoint("10.128.1.10")])])
        eventually(lambda: get(netns, 10256, "/healthz")[0] == 503)
        assert get(netns, 10256, "/livez")[0] == 200


def test_health_check_node_ports_follow_the_endpoints(netns: NetNs, folder: Path) -> None:
    public = service(
        type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=31000, lb=["192.0.2.20"], nodePort=30080
    )
    one_family = {"clusterIPs": [V4], "ipFamilies": ["IPv4"]}
    far6 = endpoint_slice([endpoint("fd00:10:128:2::10", node="node-2")], family="IPv6")
    write(folder, "web.yaml", [NODE, public, endpoint_slice([endpoint("10.128.1.10")]), far6])

    def status(host: str) -> int | None:
        """Returns the status; None if the connection is refused."""
        try:
            return get(netns, 31000, "/", host)[0]
        except ConnectionRefusedError:
            return None

    def answers(ipv4: int | None, ipv6: int | None) -> bool:
        return (status("127.0.0.1"), status("::1")) == (ipv4, ipv6)

    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv6")
        # The node drops the Service's IPv6 traffic: no local endpoint of that family.
        eventually(lambda: answers(200, 503))
        near6 = endpoint_slice([endpoint("fd00:10:128:1::10")], family="IPv6")
        write(folder, "web.yaml", [NODE, public, endpoint_slice([endpoint("10.128.2.10", node="node-2")]), near6])
        eventually(lambda: answers(503, 200))
        write(folder, "web.yaml", [NODE, public | {"spec": public["spec"] | one_family}, near6])
        eventually(lambda: answers(503, None))
        write(folder, "web.yaml", [NODE])
        eventually(lambda: answers(None, None))


def test_systemd_hears_when_it_is_ready_and_when_it_ends(netns: NetNs, folder: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(PATIENCE)  # time: the deadline at which the test fails
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        said = []
        with Ferrule(netns, folder, "--backend", "nft", environment=environment) as daemon:
            while not any("READY=1" in text for text in said):
                said.append(supervisor.recv(4096).decode())
            assert "10.128.1.10:8080" in rules(netns, "nft"), "ready before the rules were there"
            alive = 0
            while alive < 3:
                text = supervisor.recv(4096).decode()
                alive += "WATCHDOG=1" in text
            assert daemon.stop() == 0
        # It has ended: what it said is there.
        supervisor.setblocking(False)
        rest = []
        with pytest.raises(BlockingIOError):
            while True:
                rest.append(supervisor.recv(4096).decode())
        assert any("STOPPING=1" in text for text in rest)


def test_connected_clients_are_not_waited_for_at_the_end(netns: NetNs, folder: Path) -> None:
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv6")
        eventually(lambda: get(netns, 10256, "/healthz"))
        idle = netns.call(lambda: socket.create_connection(("127.0.0.1", 10256)))
        try:
            assert daemon.stop() == 0
            assert "Ending on request" in daemon.log[-1], "the tasks did not end in time"
        finally:
            idle.close()
        assert V4 in rules(netns, "nft")
        with pytest.raises(OSError, match="refused"):
            get(netns, 10256, "/healthz")


def test_a_changed_configuration_ends_it_with_the_reason(netns: NetNs, folder: Path, tmp_path: Path) -> None:
    path = config(tmp_path / "config.conf")
    with Ferrule(netns, folder, "--config", str(path), "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv6")
        path.write_text(path.read_text())
        config(path, iptables={"masqueradeAll": True})
        assert daemon.end() == 1
        daemon.wait_for("was changed: ending")
    assert V4 in rules(netns, "nft")


def test_a_taken_port_ends_it_only_where_that_is_asked_for(netns: NetNs, folder: Path, tmp_path: Path) -> None:
    taken = netns.call(lambda: socket.create_server(("127.0.0.1", 10249)))
    with taken:
        with Ferrule(netns, folder, "--backend", "nft") as daemon:
            daemon.wait_for('"Synced"', "ipv6")
            daemon.wait_for("127.0.0.1:10249")
            status, body = eventually(lambda: get(netns, 10256, "/readyz"))
            assert status == 503
            # Other hosts reach this port: they learn which part is not ready, and no address.
            assert json.loads(body)["reasons"] == {"metrics-server": "the metrics port does not listen"}
        path = config(tmp_path / "config.conf", bindAddressHardFail=True)
        with Ferrule(netns, folder, "--config", str(path), "--backend", "nft") as daemon:
            assert daemon.end() == 1
            daemon.wait_for("127.0.0.1:10249")


def test_stale_udp_flows_go_when_their_endpoint_does(netns: NetNs, folder: Path) -> None:
    dns = service("dns", protocol="UDP", port=53)
    slice_ = endpoint_slice([endpoint("10.128.1.10")], of="dns", protocol="UDP")
    write(folder, "web.yaml", [NODE, dns, slice_])
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv6")

        client = ("10.128.1.5", 1000)
        ours = Flow(client, (V4, 53), ("10.128.1.10", 8080))
        dead = replace(ours, source=("10.128.1.5", 1001), replies_from=("10.128.1.77", 8080))
        other = replace(ours, destination=("192.0.2.1", 53), replies_from=("192.0.2.1", 53))
        netns.call(lambda: insert([ours, dead, other]))
        write(folder, "web.yaml", [NODE, dns, endpoint_slice([endpoint("10.128.1.11")], of="dns", protocol="UDP")])
        # On a busy machine the check after the first sync finds the flow that was stale from the start.
        eventually(lambda: netns.call(table) == {other})
        daemon.wait_for("Deleted stale conntrack entries")
