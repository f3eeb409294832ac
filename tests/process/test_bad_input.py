"""Mistakes of operators, one test each: the message names the object, the field, the value and the remedy.

Faults that a retry cannot resolve end the program with 1 before a rule is written; a missing API server does not.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import eventually
from tests.e2e.harness.certs import Authority
from tests.e2e.harness.process import Process
from tests.process.ferrule import get, rules

pytestmark = pytest.mark.netns

NODE = "--hostname-override=node-1"
UNREACHABLE = "https://127.0.0.1:1"
"""Nothing listens there."""


def kubeconfig(path: Path, server: str = UNREACHABLE, *, context: str = "default", **cluster: Any) -> Path:
    (path.parent / "token").write_text("secret")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default", "cluster": {"server": server, **cluster}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "current-context": context,
        "users": [{"name": "default", "user": {"tokenFile": str(path.parent / "token")}}],
    }
    path.write_text(json.dumps(config))
    return path


def config(folder: Path, access: Path | None = None, **fields: Any) -> str:
    """Returns the argument for a configuration whose kubeconfig is `access` (by default one whose server does not
    respond)."""
    access = access or kubeconfig(folder / "kubeconfig")
    path = folder / "config.conf"
    path.write_text(
        json.dumps(
            {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables"}
            | {"conntrack": {"maxPerCore": 0, "min": 0}, "clientConnection": {"kubeconfig": str(access)}}
            | fields
        )
    )
    return f"--config={path}"


def argv(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ferrule", "run", NODE, *arguments)


def ends(netns: NetNs, *arguments: str, under: tuple[str, ...] = ()) -> str:
    """Runs a command that must exit with 1 and leave no rule. Returns its last sentence. `under` precedes its argv."""
    done = netns.run(*under, *argv(*arguments), check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "KUBE-" not in rules(netns, "nft") + rules(netns, "legacy"), "rules were written"
    return next(line for line in done.stderr.splitlines() if line.startswith("ferrule: "))


SOON = (
    sys.executable,
    "-c",
    "import sys; import ferrule.source.api.credentials as credentials; credentials.REREAD_SECONDS = 0.1;"
    "from ferrule.cli import main; sys.exit(main(sys.argv[4:]))",
)
"""Goes before a command line, and replaces its program by one that reads bad credentials again at once."""


@contextmanager
def runs(netns: NetNs, folder: Path, *arguments: str, under: tuple[str, ...] = ()) -> Iterator[Process]:
    process = Process(netns, (*under, *argv(*arguments)), folder / "ferrule.log")
    try:
        yield process
    finally:
        process.kill()


def admin(netns: NetNs, path: str) -> tuple[int, str]:
    """Status and body at the port for metrics; asked again until it listens."""

    def asked() -> tuple[int, bytes] | None:
        try:
            return get(netns, 10249, path)
        except OSError:
            return None

    status, body = eventually(asked, f"no answer at {path}")
    return status, body.decode()


def readiness(netns: NetNs) -> tuple[int, str]:
    """Returns the status and the reasons of `/readyz`."""
    return admin(netns, "/readyz")


FAILED_REQUESTS = re.compile(r'^rest_client_requests_total\{code="<error>",.*method="GET".*\} (\S+)$', re.MULTILINE)
"""Lists and watches, without Events."""


def goes_on(netns: NetNs, process: Process) -> None:
    """It asks for each kind, and then once more at least."""

    def seen() -> bool:
        assert process.alive, f"it ended:\n{process.tail()}"
        failed = FAILED_REQUESTS.findall(admin(netns, "/metrics")[1])
        return sum(map(float, failed)) > 3

    eventually(seen, lambda: f"it does not try again:\n{process.tail()}")


# ---------------------------------------------------------------------- the kubeconfig


def test_a_kubeconfig_that_is_not_there(netns: NetNs, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert ends(netns, config(tmp_path, missing)) == f"ferrule: {missing}: the kubeconfig does not exist"


def test_a_kubeconfig_we_may_not_read(netns: NetNs, tmp_path: Path) -> None:
    access = kubeconfig(tmp_path / "kubeconfig")
    access.chmod(0)
    # Root may read every file, unless it lacks the capabilities.
    said = ends(netns, config(tmp_path, access), under=("setpriv", "--bounding-set=-dac_override,-dac_read_search"))
    assert said == f"ferrule: {access}: the kubeconfig may not be read by user 0 (mode 0000, owner 0)"


def test_a_world_writable_kubeconfig_is_reported(netns: NetNs, tmp_path: Path) -> None:
    access = kubeconfig(tmp_path / "kubeconfig")
    access.chmod(0o666)
    with runs(netns, tmp_path, config(tmp_path, access)) as process:
        line = process.wait_for("any user may rewrite it")
        assert line.startswith("W")
        assert f"{access}: mode 0666" in line
        goes_on(netns, process)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a kubeconfig: expected a mapping with clusters, users and contexts"),
        ("<html>", "not a kubeconfig: expected a mapping"),
        ("clusters: [", "not YAML"),
        ("{}", "current-context is empty: it must name one of contexts"),
    ],
)
def test_a_kubeconfig_that_is_none(netns: NetNs, tmp_path: Path, content: str, said: str) -> None:
    access = tmp_path / "kubeconfig"
    access.write_text(content)
    line = ends(netns, config(tmp_path, access))
    assert line.startswith(f"ferrule: {access}: ")
    assert said in line


def test_a_context_that_is_not_there(netns: NetNs, tmp_path: Path) -> None:
    access = kubeconfig(tmp_path / "kubeconfig", context="other")
    said = ends(netns, config(tmp_path, access))
    assert said == (f"ferrule: {access}: current-context is 'other', but contexts has no such entry (there: default)")


@pytest.mark.parametrize("wrong", [True, False], ids=["wrong", "right"])
def test_a_wrong_kubeconfig_leaves_the_kernels_settings_alone(netns: NetNs, tmp_path: Path, wrong: bool) -> None:
    """The program ends because of it, so it must not change anything."""
    name = "nf_conntrack_tcp_timeout_established"
    setting = Path("/proc/sys/net/netfilter", name)
    before = netns.call(setting.read_text)
    access = kubeconfig(tmp_path / "kubeconfig", context="other" if wrong else "default")
    wanted = config(tmp_path, access, conntrack={"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "1234s"})
    if wrong:
        ends(netns, wanted)
        assert netns.call(setting.read_text) == before != "1234\n"
        return
    with runs(netns, tmp_path, wanted) as process:
        process.wait_for("Kernel setting changed", name)
        assert netns.call(setting.read_text) == "1234\n", "the case shows nothing"


def test_neither_kubeconfig_nor_pod(netns: NetNs) -> None:
    said = ends(netns, "--conntrack-max-per-core=0", "--conntrack-min=0")
    for way in ("--kubeconfig", "--master", "KUBERNETES_SERVICE_HOST"):
        assert way in said


# ---------------------------------------------------------------------- the API server


def test_an_address_that_refuses(netns: NetNs, tmp_path: Path) -> None:
    access = kubeconfig(tmp_path / "kubeconfig")
    with runs(netns, tmp_path, config(tmp_path, access)) as process:
        line = process.wait_for("Cannot follow the API server", 'kind="Service"')
        assert f"{UNREACHABLE}: refused: connection refused [{access}, context default]" in line
        status, why = readiness(netns)
        assert status == 503
        assert "Service list" in why
        eventually(lambda: "connection refused" in readiness(netns)[1], "/readyz does not say why")
        public = json.loads(get(netns, 10256, "/readyz")[1])["reasons"]
        assert public["lists"] == "the objects of the cluster have not all been listed", "other hosts learn no more"
        assert get(netns, 10256, "/livez")[0] == 200, "stock is healthy before its first sync"
        goes_on(netns, process)
        assert len(process.lines("Cannot follow the API server")) == 3, "said once a kind, not at every retry"
        assert "KUBE-" not in rules(netns, "nft"), "rules without a list"


def test_a_name_that_resolves_to_nothing(netns: NetNs, tmp_path: Path) -> None:
    access = kubeconfig(tmp_path / "kubeconfig", "https://api.ferrule.invalid:6443")
    with runs(netns, tmp_path, config(tmp_path, access)) as process:
        line = process.wait_for("Cannot follow the API server")
        assert "the name 'api.ferrule.invalid' resolves to nothing" in line
        assert str(access) in line
        goes_on(netns, process)


@contextmanager
def tls_server(netns: NetNs, pair: Any) -> Iterator[int]:
    """Accepts, shakes hands and hangs up. Yields its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    listening = netns.call(lambda: socket.create_server(("127.0.0.1", 0)))

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def test_a_server_of_another_authority(netns: NetNs, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours", "our-ca"), Authority(tmp_path / "theirs", "their-ca")
    pair = theirs.issue("impostor", addresses=("127.0.0.1",))
    with tls_server(netns, pair) as port:
        server = f"https://127.0.0.1:{port}"
        access = kubeconfig(tmp_path / "kubeconfig", server, **{"certificate-authority": str(ours.pair.cert)})
        with runs(netns, tmp_path, config(tmp_path, access)) as process:
            line = process.wait_for("its certificate is not trusted")
            assert server in line
            assert f"Expected: issued by CN=our-ca from {ours.pair.cert}" in line
            assert f"openssl s_client -connect 127.0.0.1:{port}" in line
            goes_on(netns, process)


def test_a_server_under_another_name(netns: NetNs, tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours", "our-ca")
    with tls_server(netns, ours.issue("elsewhere", addresses=("192.0.2.1",))) as port:
        access = kubeconfig(
            tmp_path / "kubeconfig",
            f"https://127.0.0.1:{port}",
            **{"certificate-authority": str(ours.pair.cert)},
        )
        with runs(netns, tmp_path, config(tmp_path, access)) as process:
            line = process.wait_for("its certificate is not trusted")
            assert "127.0.0.1" in line
            goes_on(netns, process)


def test_an_authority_that_is_not_a_certificate(netns: NetNs, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    access = kubeconfig(tmp_path / "kubeconfig", **{"certificate-authority": str(tmp_path / "ca.crt")})
    with runs(netns, tmp_path, config(tmp_path, access), under=SOON) as process:
        line = process.wait_for("holds no certificate in PEM form")
        assert str(tmp_path / "ca.crt") in line
        Authority(tmp_path / "ours", "our-ca").pair.cert.rename(tmp_path / "ca.crt")
        process.wait_for("Cannot follow the API server", f"{UNREACHABLE}: refused")


def test_a_token_file_that_goes_bad(netns: NetNs, tmp_path: Path) -> None:
    access = kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    (tmp_path / "token").write_text("two words")
    with runs(netns, tmp_path, config(tmp_path, access), under=SOON) as process:
        line = process.wait_for("is not a token: it must be one word")
        assert line.startswith("E")
        assert f"{tmp_path / 'token'} (users[default].user.tokenFile)" in line
        eventually(lambda: "api-access" in readiness(netns)[1], "readiness is silent about it")
        (tmp_path / "token").write_text("secret")
        process.wait_for("Cannot follow the API server", "http://127.0.0.1:1: refused")


# ---------------------------------------------------------------------- the configuration


@pytest.mark.parametrize("mode", ["ipvs", "nftables"])
@pytest.mark.parametrize("by", ["file", "flag"])
def test_a_mode_we_do_not_have(netns: NetNs, tmp_path: Path, mode: str, by: str) -> None:
    said = ends(netns, *([config(tmp_path, mode=mode)] if by == "file" else [f"--proxy-mode={mode}"]))
    assert ("mode: Invalid value" if by == "flag" else f"{tmp_path / 'config.conf'}: mode") in said
    assert f'"{mode}"' in said
    assert "set mode: iptables (or keep kube-proxy for this one)" in said


def test_ports_that_are_taken(netns: NetNs, tmp_path: Path) -> None:
    ports = {"health": 10256, "metrics": 10249}
    taken = [netns.call(lambda p=p: socket.create_server(("127.0.0.1", p))) for p in ports.values()]  # type: ignore[misc]
    with runs(netns, tmp_path, config(tmp_path, healthzBindAddress="127.0.0.1:10256")) as process:
        for server, port in ports.items():
            line = process.wait_for("Cannot listen", f'server="{server}"')
            assert line.startswith("E")
            assert f'address="127.0.0.1:{port}" reason="address already in use" retryEvery="5s"' in line
        for listening in taken:
            listening.close()
        for server in ports:
            process.wait_for('"Listening"', f'server="{server}"')


@pytest.mark.parametrize("port", [10256, 10249])
def test_a_port_that_is_taken_and_must_not_be(netns: NetNs, tmp_path: Path, port: int) -> None:
    with netns.call(lambda: socket.create_server(("127.0.0.1", port))):
        said = ends(netns, config(tmp_path, bindAddressHardFail=True))
        assert "cannot listen on" in said
        assert f":{port}: address already in use" in said


# ---------------------------------------------------------------------- the machine

HIDDEN = 'mount -t tmpfs none /usr/sbin && { [ -L /sbin ] || mount -t tmpfs none /sbin; }; exec "$@"'
READ_ONLY = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'


def in_mounts(script: str) -> tuple[str, ...]:
    return ("unshare", "-m", "sh", "-ec", script, "sh")


def test_no_iptables(netns: NetNs, tmp_path: Path) -> None:
    said = ends(netns, config(tmp_path), under=(*in_mounts(HIDDEN), "env", "PATH=/usr/bin:/bin"))
    assert "iptables" in said
    assert "not installed" in said
    assert "install" in said.replace("not installed", "")


def test_no_right_to_change_rules(netns: NetNs, tmp_path: Path) -> None:
    said = ends(netns, config(tmp_path), under=("setpriv", "--bounding-set=-net_admin"))
    assert "no permission to change rules here" in said
    assert "CAP_NET_ADMIN" in said


def test_a_read_only_proc_sys(netns: NetNs, tmp_path: Path) -> None:
    wanted = config(tmp_path, conntrack={"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "1h"})
    with runs(netns, tmp_path, wanted, under=in_mounts(READ_ONLY)) as process:
        line = process.wait_for("Kernel setting", "nf_conntrack_tcp_timeout_established")
        assert line.startswith("W")
        assert "3600" in line
        assert "Read-only file system" in line
        process.wait_for("Cannot follow the API server")
        goes_on(netns, process)


def test_no_node_name(netns: NetNs, tmp_path: Path) -> None:
    said = ends(netns, config(tmp_path), "--hostname-override=   ")
    assert said == "ferrule: --hostname-override is blank"
