"""The command line: help with examples, exit codes, render without rights."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from ferrule.cli import main
from ferrule.observe.logs import JsonFormatter, KlogFormatter, kv
from tests.conformance.replay import Case
from tests.objects import NODE, NODE_PORT, endpoint, endpoint_slice, service

EXAMPLES = Path(__file__).parents[2] / "examples"


def ferrule(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "ferrule", *argv), input=stdin, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "command", [(), ("run",), ("render",), ("cleanup",), ("version",)], ids=lambda c: " ".join(c) or "ferrule"
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
        (["run"], "--manifests"),
        (["run", "--manifests", ".", "--backend", "ebpf"], "invalid choice: 'ebpf'"),
        (["run", "--manifests", ".", "-v", "loud"], "invalid int value: 'loud'"),
        (["render"], "--manifests"),
        (["render", "--manifests", ".", "--family", "ipv5"], "invalid choice: 'ipv5'"),
        (["cleanup", "everything"], "unrecognized arguments: everything"),
        (["run", "--manifests", ".", "--onec"], "unrecognized arguments: --onec"),
        (["run", "--manifests", ".", "--on"], "unrecognized arguments: --on"),
    ],
)
def test_wrong_arguments_exit_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_version_names_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith("ferrule 0.")
    assert "release" in lines[0] or "debug" in lines[0]


def test_errors_are_one_sentence_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.0.0.0/33\nfoo: 1\n"
    )
    assert main(["render", "--manifests", str(EXAMPLES / "shop"), "--config", str(config)]) == 1
    assert main(["render", "--manifests", str(tmp_path / "nowhere")]) == 1
    assert main(["run", "--manifests", str(tmp_path / "nowhere")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 problems in the configuration" in err
    assert "unknown field 'foo'" in err
    assert err.count("no such file or folder") == 2


def test_render_needs_no_kernel_and_gives_restore_text() -> None:
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


def record(message: str, **pairs: object) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.WARNING, "/a/file.py", 7, message, (), None)
    made.__dict__.update(kv(**pairs))
    return made


def test_log_lines_cannot_be_forged() -> None:
    line = KlogFormatter().format(record("Bad input", object='web"\nE0101 forged', n=3, ok=True, names=["a", "b"]))
    assert "\n" not in line
    assert line.startswith("W")
    assert 'file.py:7] "Bad input" object="web\\"\\nE0101 forged" n=3 ok=true names=["a","b"]' in line
    parsed = orjson.loads(JsonFormatter().format(record("Bad input", object="web\n")))
    assert (parsed["msg"], parsed["object"], parsed["caller"]) == ("Bad input", "web\n", "file.py:7")
