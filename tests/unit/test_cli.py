"""Tests the command line: help with examples, exit codes, render without privileges, and the options that `run`
passes to the daemon."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ferrule.cleanup import CleanupReport, Removed
from ferrule.cli import main
from ferrule.observe.logs import verbose
from ferrule.process.shutdown import Shutdown
from ferrule.source.manifests import documents
from ferrule.types import Backend
from ferrule.yamljson import load_all
from tests.conformance.replay import Case
from tests.objects import NODE, NODE_PORT, endpoint, endpoint_slice, service

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
EXAMPLES = Path(__file__).parents[2] / "examples"


def ferrule(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "ferrule", *argv), input=stdin, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "command", [(), ("render",), ("cleanup",), ("version",)], ids=lambda c: " ".join(c) or "ferrule"
)
def test_every_help_has_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n  " in text


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "a command is needed"),
        (["walk"], "invalid choice: 'walk'"),
        (["render"], "--manifests"),
        (["render", "--manifests", ".", "--family", "ipv5"], "invalid choice: 'ipv5'"),
        (["cleanup", "everything"], "unrecognized arguments: everything"),
        (["render", "--manifests", ".", "--fam", "ipv4"], "unrecognized arguments: --fam ipv4"),
    ],
)
def test_wrong_arguments_exit_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_version_names_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["version"], ["--version"], ["run", "--version=raw"], ["run", "--version"], ["run", "--version=true"]):
        assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1] == lines[2]
    assert lines[0].startswith("ferrule 0.")
    assert "release" in lines[0] or "debug" in lines[0]
    assert lines[3] == lines[4] == lines[0].split(" (")[0]


def test_errors_are_one_sentence_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.0.0.0/33\nfoo: 1\n"
    )
    assert main(["render", "--manifests", str(EXAMPLES / "shop"), "--config", str(config)]) == 1
    assert main(["render", "--manifests", str(tmp_path / "nowhere")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 problems in the configuration" in err
    assert "unknown field 'foo'" in err
    assert err.count("no such file or folder") == 1


def test_render_needs_no_kernel_and_prints_restore_text() -> None:
    done = ferrule(
        "render",
        "--manifests",
        str(EXAMPLES / "shop"),
        "--config",
        str(EXAMPLES / "config.yaml"),
        "--hostname-override",
        "node-1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    v4, v6 = done.stdout.split("# ip6tables-restore --noflush\n")
    assert v4.startswith("# iptables-restore --noflush\n*filter\n")
    assert '"shop/web:http cluster IP"' in v4
    assert "fd00:10:96::30/128" in v6
    one = ferrule(
        "render",
        "--manifests",
        str(EXAMPLES / "shop"),
        "--config",
        str(EXAMPLES / "config.yaml"),
        "--family",
        "ipv6",
        "--hostname-override",
        "node-1",
    )
    assert one.stdout == v6


def test_render_reads_recorded_steps_and_standard_input() -> None:
    case = Case("both-policies-local")
    argv = ("render", "--config", str(case.folder / "config.yaml"), "--family", "ipv4", "--manifests")
    from_file = ferrule(*argv, str(case.folder / "step1.objects.json"))
    from_stdin = ferrule(*argv, "-", stdin=case.objects(1).decode())
    assert from_file.stdout == from_stdin.stdout
    assert "KUBE-SVC-GSODGFK7F4BKZ7VG" in from_file.stdout


def test_render_prints_what_is_valid_and_reports_the_rest() -> None:
    bad = service(
        "bad",
        clusterIP="10.96.0.66",
        clusterIPs=["10.96.0.66"],
        ipFamilies=["IPv4"],
        ports=[{"port": 70000}, {"name": "ok", "port": 81}],
    )
    text = json.dumps(
        [NODE, service(type="NodePort", nodePort=NODE_PORT), endpoint_slice([endpoint("10.128.1.10")]), bad]
    )
    done = ferrule("render", "--manifests", "-", "--family", "ipv4", stdin=text)
    assert done.returncode == 1
    assert "Service shop/bad: spec.ports[0].port: '70000' is not a port number" in done.stderr
    assert "10.128.1.10:8080" in done.stdout
    assert "shop/bad:ok has no endpoints" in done.stdout


def test_render_escapes_control_characters_of_names(tmp_path: Path) -> None:
    name = "we\x1b]0;title\x07b\u009b2K\u2028"
    bad = service(name, clusterIP="none of the kind", clusterIPs=["none\x1b[2J"], ipFamilies=["IPv4"])
    (tmp_path / "\x1b[31m.yaml").write_text("- 1\n")
    (tmp_path / "bad.json").write_text(json.dumps([bad]))
    done = ferrule("render", "--manifests", str(tmp_path), "--family", "ipv4")
    assert done.returncode == 1
    assert "we\\x1b]0;title\\x07b\\x9b2K\\u2028" in done.stderr
    assert "\\x1b[31m.yaml" in done.stderr
    assert [c for c in done.stderr if not c.isprintable() and c != "\n"] == []


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (["node-1"], None),
        ([], "named node-1 (there is no Node)"),
        (["b", "a"], "named node-1 (the Nodes are a, b)"),
        (["d", "c", "b", "a"], "named node-1 (the Nodes are a, b, c, …)"),
    ],
)
def test_render_warns_of_a_name_that_no_node_has(nodes: list[str], said: str | None) -> None:
    objects = [service(), *(NODE | {"metadata": {"name": name}} for name in nodes)]
    done = ferrule("render", "--manifests", "-", "--hostname-override", "node-1", stdin=json.dumps(objects))
    assert done.returncode == 0
    assert (said in done.stderr and "warning: " in done.stderr) if said else done.stderr == ""


@pytest.mark.parametrize(
    ("items", "families"),
    [
        ("[172.31.250.0/24, 'fd00:255::/64']", []),
        ("[198.51.100.0/24, 'fd00:255::/64']", ["IPv4"]),
        ("['2001:db8::/64']", ["IPv6"]),
        ("[primary]", []),
    ],
)
def test_render_warns_where_node_ports_answer_nowhere(items: str, families: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"{HEAD}mode: iptables\nnodePortAddresses: {items}\n")
    done = ferrule(
        "render", "--config", str(config), "--hostname-override", "node-1", "--manifests", "-", stdin=json.dumps([NODE])
    )
    warning = (
        "ferrule: warning: nodePortAddresses select no {} address of node node-1: its node ports do not answer there"
    )
    assert done.returncode == 0
    assert done.stderr.splitlines() == [warning.format(family) for family in families]


def test_json_on_standard_input_is_not_read_as_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """The YAML parser takes thirty times as long for the same text."""
    calls: list[int] = []
    monkeypatch.setattr(documents, "load_all", lambda data: calls.append(len(data)) or load_all(data))
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [service(), NODE]}, indent=4).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["render", "--manifests", "-", "--hostname-override", "node-1"]) == 0
    assert calls == []
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(yaml.safe_dump(service()).encode())))
    assert main(["render", "--manifests", "-", "--hostname-override", "node-1"]) == 0
    assert len(calls) == 1, "this test could not fail"


def test_an_external_ip_stays_with_the_service_created_first(tmp_path: Path) -> None:
    """Between namespaces and as kubectl prints it: YAML has the time without quotes."""
    for namespace, created, last in (("a-new", "2025-01-01T00:00:00Z", 5), ("z-old", "2020-05-06T07:08:09Z", 6)):
        made = service(clusterIP=f"10.96.0.{last}", clusterIPs=[f"10.96.0.{last}"], externalIPs=["192.0.2.7"])
        made["metadata"] |= {"namespace": namespace, "creationTimestamp": "TIME"}
        text = yaml.safe_dump(made | {"spec": made["spec"] | {"ipFamilies": ["IPv4"]}})
        (tmp_path / f"{namespace}.yaml").write_text(text.replace("TIME", created))
    done = ferrule("render", "--manifests", str(tmp_path), "--family", "ipv4")
    lost = "Service a-new/web: spec.externalIPs: '192.0.2.7:80 tcp' already belongs to z-old/web:main"
    assert f"{lost} (created 2020-05-06T07:08:09Z): a-new/web:main has no rule for it" in done.stderr
    rules = [line for line in done.stdout.splitlines() if "-d 192.0.2.7/32" in line]
    assert rules
    assert all("z-old/web:main" in line for line in rules)


# ---------------------------------------------------------------------- run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Records the options of the daemon, and restores logging."""
    asked: list[Any] = []

    def serve(options: object, _: Shutdown) -> int:
        asked.append(options)
        return 0

    monkeypatch.setattr("ferrule.daemon.run", serve)
    root, ours = logging.getLogger(), logging.getLogger("ferrule")
    before = root.handlers[:], root.level, ours.level
    yield asked
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(False)


def test_run_hands_everything_to_the_daemon(served: list[Any], tmp_path: Path) -> None:
    config = tmp_path / "config.conf"
    config.write_text(HEAD + "mode: iptables\nclusterCIDR: 10.0.0.0/8\n")
    argv = ["--config", str(config), "--hostname-override=N1", "--init-only", "--master=https://m", "--backend=nft"]
    assert main(["run", *argv]) == 0
    assert main(["run", "--manifests", "x", "--once"]) == 0
    api, folder = served
    assert api.manifests is None
    assert (api.settings.cluster_cidr, api.settings.hostname_override, api.init_only) == ("10.0.0.0/8", "n1", True)
    assert (api.config_file, api.config_content, api.master) == (config, config.read_bytes(), "https://m")
    assert (api.backend, api.once) == (Backend.NFT, False)
    assert (folder.manifests, folder.once, folder.config_file) == (Path("x"), True, None)


@pytest.mark.parametrize("program", ["kube-proxy", "/usr/local/bin/kube-proxy"])
def test_under_its_name_the_program_is_kube_proxy(program: str, served: list[Any]) -> None:
    assert main(["--cluster-cidr=10.0.0.0/8", "-v=1"], program) == 0
    assert served[0].settings.cluster_cidr == "10.0.0.0/8"
    assert main(["--version"], program) == 0


def test_under_its_name_as_a_process(tmp_path: Path) -> None:
    link = tmp_path / "kube-proxy"
    link.write_text("import sys; from ferrule.cli import main; sys.exit(main())")
    done = subprocess.run((sys.executable, link, "--nope"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ferrule: unknown flag: --nope\nSee 'ferrule run --help'.\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["serve"], "takes no arguments besides flags, got 'serve'"),
        (["--cleanup", "false"], "takes no arguments besides flags, got 'false'"),
        (["--", "-v"], "got '-v'"),
        (["-v", "loud"], 'for "-v, --v" flag: strconv.ParseUint'),
        (["--backend", "ebpf"], "must be one of nft, legacy"),
        (["--onec"], "unknown flag: --onec"),
        (["--cleanup", "--init-only"], "give one of them"),
        (["--proxy-mode=ipvs"], "set mode: iptables"),
        (["--config=/nonexistent"], "cannot read the configuration /nonexistent: No such file or directory"),
    ],
)
def test_what_is_wrong_with_run_is_one_sentence(
    argv: list[str], said: str, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *argv]) == 1
    out, err = capsys.readouterr()
    assert (out, served) == ("", [])
    assert err.startswith("ferrule: ")
    assert said in err
    assert "Traceback" not in err


def test_an_unreadable_configuration_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert main(["run", "--config", str(tmp_path / "c")]) == 1
    assert f"cannot read the configuration {tmp_path / 'c'}: Permission denied" in capsys.readouterr().err
    assert served == []


def test_words_that_are_empty_are_passed_over(served: list[Any]) -> None:
    """As in kube-proxy: a template that leaves an argument empty must not break the node."""
    assert main(["run", ""]) == 0
    assert len(served) == 1


def test_run_help_ends_well(served: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    assert "examples:\n  ferrule run" in capsys.readouterr().out
    assert served == []


def test_what_is_strange_is_logged(served: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.conf"
    config.write_text(HEAD + "fooBar: 1\nipvs: {scheduler: rr}\n")
    config.chmod(0o666)
    assert main(["run", f"--config={config}", "--masquerade-all"]) == 0
    lines = capsys.readouterr().err.splitlines()
    for words in (
        '"Using lenient decoding as strict decoding failed"',
        "unknown field 'fooBar'",
        "--config is given: ignored --masquerade-all",
        "No mode specified: defaulting to 'iptables'",
        "nodePortAddresses is unset; NodePort connections will be accepted on all local IPs",
        "ipvs: is set, but ferrule implements iptables mode only",
    ):
        assert sum(words in line for line in lines) == 1, words
    assert all(line.startswith("W") for line in lines)
    assert len(served) == 1


@pytest.mark.usefixtures("served")
def test_the_log_is_as_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--logging-format=json", "-v=4"]) == 0
    assert all(json.loads(line)["v"] == 0 for line in capsys.readouterr().err.splitlines())
    assert logging.getLogger("ferrule.x").isEnabledFor(verbose(4))
    assert not logging.getLogger("ferrule.x").isEnabledFor(verbose(5))


def test_write_config_to(served: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.yaml"
    stock = yaml.safe_load((Path(__file__).parent / "data/default-config.yaml").read_text())
    first = ["default/kubernetes", "kube-system/kube-dns"]
    own = {"backend": "auto", "nftWrites": "netlink", "dispatch": "auto", "balance": "auto", "firstServices": first}
    assert main(["run", f"--write-config-to={target}"]) == 0
    assert yaml.safe_load(target.read_text()) == stock | {"ferrule": own}
    assert [line.split("] ")[1].split()[0] for line in capsys.readouterr().err.splitlines()] == ['"Wrote']
    # Evaluated before --cleanup, as in kube-proxy: nothing is removed.
    assert (
        main(["run", f"--write-config-to={target}", "--cleanup", "--cluster-cidr=10.0.0.0/8", "-v=3", "--backend=nft"])
        == 0
    )
    written = yaml.safe_load(target.read_text())
    assert written.pop("clusterCIDR") == "10.0.0.0/8"
    assert written.pop("logging")["verbosity"] == 3
    assert written.pop("ferrule") == own | {"backend": "nft"}
    assert written == {key: value for key, value in stock.items() if key not in ("clusterCIDR", "logging")}
    assert served == []
    nowhere = tmp_path / "none" / "out.yaml"
    capsys.readouterr()
    assert main(["run", f"--write-config-to={nowhere}"]) == 1
    assert f"--write-config-to: cannot write {nowhere}: No such file or directory" in capsys.readouterr().err


def test_cleanup_by_flag_is_the_command(
    served: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def remove(_: object) -> CleanupReport:
        return CleanupReport([Removed(Backend.LEGACY, "ipv4", "nat", 7, 2)], ["iptables-nft: no rights"])

    monkeypatch.setattr("ferrule.cli.cleanup.remove", remove)
    for argv in (["run", "--cleanup", "--kubeconfig=/nonexistent"], ["cleanup"]):
        assert main(argv) == 1
        out, err = capsys.readouterr()
        assert out == "legacy ipv4 nat: removed 7 chains and 2 jumps to them\n"
        assert err.endswith("ferrule: iptables-nft: no rights\n")
    assert served == []
