"""Tests credentials: valid and invalid kubeconfigs, and changes of the files that they name."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ferrule.errors import InputError
from ferrule.source.api.access import Access, Material
from ferrule.source.api.credentials import REREAD_SECONDS, Credentials
from ferrule.source.api.exec_plugin import ExecCredential, run_plugin
from ferrule.source.api.kubeconfig import find_access, in_cluster, read_kubeconfig
from ferrule.source.api.outcome import ApiError, Cause

TLS = Path(__file__).parent.parent / "data" / "tls"
CA, CERT, KEY = (TLS / name for name in ("ca.pem", "client.pem", "client.key"))


def kubeconfig(folder: Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> Path:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "prod", "user": "node"}}],
        "clusters": [{"name": "prod", "cluster": {"server": "https://api.test:6443/", **(cluster or {})}}],
        "users": [{"name": "node", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


# ---------------------------------------------------------------- what is read


def test_paths_are_relative_to_the_file_and_data_counts_first(tmp_path: Path) -> None:
    for name in ("ca.pem", "token"):
        (tmp_path / name).write_text("x")
    path = kubeconfig(
        tmp_path,
        {"certificate-authority": "ca.pem", "tls-server-name": "kubernetes", "proxy-url": "http://proxy.test:3128"},
        {"tokenFile": "token", "token": "inline"},
    )
    access = read_kubeconfig(path)
    assert access.server == "https://api.test:6443"
    assert access.origin == f"{path}, context here"
    assert (access.ca, access.token) == (
        Material("clusters[prod].cluster.certificate-authority", path=tmp_path / "ca.pem"),
        Material("users[node].user.tokenFile", path=tmp_path / "token"),
    )
    assert (access.tls_server_name, access.proxy) == ("kubernetes", "http://proxy.test:3128")
    both = kubeconfig(tmp_path, {"certificate-authority": "missing", "certificate-authority-data": data(CA)})
    ca = read_kubeconfig(both).ca
    assert ca is not None
    assert ca.data == CA.read_bytes()


def test_master_overrides_the_server(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"certificate-authority-data": data(CA)}, {"token": "t"})
    access = read_kubeconfig(path, master="192.0.2.7:6443")
    assert access.server == "https://192.0.2.7:6443", "no scheme means https where TLS is configured"
    assert access.token is not None
    assert find_access("", "http://127.0.0.1:8080").server == "http://127.0.0.1:8080"
    assert find_access("", "127.0.0.1:8080").server == "http://127.0.0.1:8080"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "[::1]", "[::ffff:127.0.0.1]", "LOCALHOST."])
def test_plain_http_is_for_loopback_only(tmp_path: Path, host: str) -> None:
    path = kubeconfig(tmp_path, {"server": f"http://{host}:8001"}, {"token": "t"})
    assert read_kubeconfig(path).server == f"http://{host}:8001"
    assert find_access("", f"http://{host}:8001").server == f"http://{host}:8001"
    for access in (str(path), ""):
        with pytest.raises(InputError, match=r"--master: 'http://192\.0\.2\.7:80' is plain HTTP"):
            find_access(access, "http://192.0.2.7:80")


def test_in_cluster(tmp_path: Path) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(InputError, match="token: the Pod's service account does not exist"):
        in_cluster(environment, tmp_path)
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("x")
    assert in_cluster(environment, tmp_path).server == "https://[fd00::1]:443"
    with pytest.raises(InputError, match="KUBERNETES_SERVICE_PORT are not both set"):
        find_access("", "", environment={})


def test_proxy_variables_of_the_environment_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:1")
    assert read_kubeconfig(kubeconfig(tmp_path)).proxy == ""


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("cluster", "user", "message"),
    [
        ({"server": ""}, {}, r"clusters\[prod\].cluster.server is empty"),
        ({"server": "ftp://x"}, {}, r"clusters\[prod\].cluster.server: 'ftp://x' must be a URL"),
        ({"server": "https://x:70000"}, {}, "is not a URL"),
        ({"server": 7}, {}, "server must be text, not 7"),
        (
            {"server": "http://192.0.2.1:8080"},
            {},
            r"clusters\[prod\].cluster.server: 'http://192.0.2.1:8080' is plain HTTP: .*",
        ),
        (
            {"server": "http://127.0.0.1.example:80"},
            {"token": "t"},
            "is plain HTTP: .* use https:// with certificate-auth",
        ),
        ({"server": "192.0.2.1:8080"}, {"token": "t"}, r"is plain HTTP \(no scheme and no TLS settings mean http://\)"),
        ({"server": "http://[::ffff:192.0.2.1]"}, {"token": "t"}, "is plain HTTP"),
        (
            {"server": "http://localhost", "proxy-url": "http://p"},
            {"token": "t"},
            "proxy-url would get .* in clear text",
        ),
        ({"certificate-authority": "nowhere.pem"}, {}, "nowhere.pem: clusters.*certificate-authority does not exist"),
        ({"certificate-authority-data": "%%"}, {}, "certificate-authority-data is not base64"),
        ({"insecure-skip-tls-verify": True}, {}, "ferrule always verifies the API server"),
        ({"insecure-skip-tls-verify": "yes"}, {}, "must be true or false, not 'yes'"),
        ({"insecure-skip-tls-verify": True, "certificate-authority-data": "eA=="}, {}, "drop one"),
        ({"proxy-url": "socks5://x"}, {}, "proxy-url must begin with http"),
        ({}, {"client-certificate-data": "eA=="}, "client-key is missing, but client-certificate is given"),
        ({}, {"client-key-data": "eA=="}, "client-certificate is missing, but client-key is given"),
        ({}, {"tokenFile": "gone"}, "tokenFile does not exist"),
        ({}, {"auth-provider": {"name": "gcp"}}, "auth-provider is not supported: use exec"),
        ({}, {"as": "root"}, "as is not supported"),
        ({}, {"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}, "exec.command is empty"),
        ({}, {"exec": {"command": "x", "apiVersion": "v1"}}, "exec.apiVersion must be client.authentication"),
        ({}, {"exec": "x"}, "exec must be a mapping"),
        (
            {},
            {"token": "t", "exec": {"command": "x", "apiVersion": "client.authentication.k8s.io/v1"}},
            "exec stands beside a token",
        ),
    ],
)
def test_messages_name_file_field_and_value(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], message: str
) -> None:
    path = kubeconfig(tmp_path, cluster, user)
    with pytest.raises(InputError, match=message) as caught:
        read_kubeconfig(path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a kubeconfig"),
        ("[1]", "not a kubeconfig"),
        ("a: [", "line 2: not YAML"),
        ("current-context: x", "contexts is missing"),
        ("contexts: []", "current-context is empty"),
        ("current-context: x\ncontexts: [{name: y, context: {}}]", r"current-context is 'x', but .* \(there: y\)"),
        (
            "current-context: y\ncontexts: [{name: y, context: {cluster: c}}]\nclusters: []",
            "clusters has no such entry",
        ),
    ],
)
def test_files_that_are_no_kubeconfig(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_kubeconfig(path)


def test_missing_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="gone: the kubeconfig does not exist"):
        read_kubeconfig(tmp_path / "gone")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_kubeconfig(tmp_path)
    path = kubeconfig(tmp_path)
    path.chmod(0)
    if os.geteuid() == 0:
        # Root may read every file, so the kernel's refusal is simulated.
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=rf"may not be read by user {os.geteuid()} \(mode 0000, owner {os.geteuid()}"):
        read_kubeconfig(path)


def test_modes_that_let_others_in_are_warned_about(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {}, {"token": "secret"})
    assert read_kubeconfig(path).warnings == ()
    path.chmod(0o644)
    assert "holds a key or token that any user may read" in read_kubeconfig(path).warnings[0]
    path.chmod(0o666)
    assert len(read_kubeconfig(path).warnings) == 1
    assert "any user may rewrite it" in read_kubeconfig(path).warnings[0]


def test_insecure_only_when_allowed_and_then_said(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"insecure-skip-tls-verify": True})
    access = read_kubeconfig(path, allow_insecure=True)
    assert "any server is accepted as the API server" in access.warnings[0]
    context = Credentials(access).tls()
    assert context is not None
    assert context.verify_mode is ssl.CERT_NONE


# ---------------------------------------------------------------- live


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def bearer(credentials: Credentials) -> str:
    return asyncio.run(credentials.authorization())


def test_a_token_file_is_read_again_within_a_minute_and_at_once_after_a_401(tmp_path: Path) -> None:
    token, clock = tmp_path / "token", Clock()
    token.write_text("one\n")
    access = Access("https://x", "test", token=Material("t", path=token))
    credentials = Credentials(access, clock=clock)
    assert bearer(credentials) == "Bearer one"
    token.write_text("second")
    assert bearer(credentials) == "Bearer one"
    clock.now += REREAD_SECONDS
    assert REREAD_SECONDS < 60
    assert bearer(credentials) == "Bearer second"
    token.write_text("third!")
    credentials.rejected("Bearer second")
    assert bearer(credentials) == "Bearer third!"


def test_a_token_file_that_vanishes_or_is_empty_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    token, clock = tmp_path / "token", Clock()
    token.write_text("one")
    credentials = Credentials(Access("https://x", "test", token=Material("t", path=token)), clock=clock)
    assert bearer(credentials) == "Bearer one"
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            token.unlink(missing_ok=True)
            clock.now += 100
            assert bearer(credentials) == "Bearer one"
    assert [r.getMessage() for r in caplog.records] == ["Using the last good content"]
    token.write_text("")
    clock.now += 100
    assert bearer(credentials) == "Bearer one"
    fresh = Credentials(Access("https://x", "test", token=Material("t", path=token)))
    with pytest.raises(ApiError, match=r"token .*is empty") as caught:
        bearer(fresh)
    assert caught.value.cause is Cause.CREDENTIALS


@pytest.mark.parametrize("content", ["two words", "evil\r\nX-Header: 1", "über"])
def test_a_token_cannot_forge_a_header(content: str) -> None:
    credentials = Credentials(Access("https://x", "test", token=Material("t", content.encode())))
    with pytest.raises(ApiError, match="is not a token"):
        bearer(credentials)


def test_certificates_are_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    for source in (CA, CERT, KEY):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    ca, cert, key = (Material(s.name, path=tmp_path / s.name) for s in (CA, CERT, KEY))
    credentials = Credentials(Access("https://x", "test", ca=ca, certificate=cert, key=key), clock=clock)
    first = credentials.tls()
    assert first is not None
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname
    assert credentials.expected_authorities() == ["CN=kubernetes"]
    clock.now += 100
    assert credentials.tls() is first, "nothing changed"
    (tmp_path / "ca.pem").write_bytes((TLS / "other-ca.pem").read_bytes())
    clock.now += 100
    second = credentials.tls()
    assert second is not first
    assert credentials.expected_authorities() == ["O=Somebody,CN=other-authority"]
    # Half a rotation: the certificate is new, its key is not there yet.
    (tmp_path / "client.pem").write_bytes((TLS / "server.pem").read_bytes())
    clock.now += 100
    with caplog.at_level(logging.WARNING):
        assert credentials.tls() is second
    assert "Keeping the previous certificates" in caplog.text
    (tmp_path / "client.key").write_bytes((TLS / "server.key").read_bytes())
    clock.now += 100
    assert credentials.tls() is not second


@pytest.mark.parametrize(
    ("materials", "message"),
    [
        ({"ca": Material("the CA", b"junk")}, "the CA holds no certificate in PEM form"),
        (
            {"certificate": Material("C", b"junk"), "key": Material("K", b"junk")},
            "C and K are not a certificate with its",
        ),
        (
            {"certificate": Material("C", CERT.read_bytes()), "key": Material("K", (TLS / "server.key").read_bytes())},
            "C",
        ),
        ({"ca": Material("CA", path=Path("/nonexistent/ca"))}, r"/nonexistent/ca \(CA\) cannot be read"),
    ],
)
def test_unusable_certificates_are_named(materials: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        Credentials(Access("https://x", "test", **materials)).tls()


def test_keys_never_touch_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    cert, key = Material("C", CERT.read_bytes()), Material("K", KEY.read_bytes())
    assert Credentials(Access("https://x", "test", certificate=cert, key=key)).tls() is not None
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- exec


def plugin(folder: Path, script: str) -> dict[str, Any]:
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    user = {
        "exec": {
            "command": "./plugin",
            "apiVersion": "client.authentication.k8s.io/v1",
            "args": ["first", "second"],
            "env": [{"name": "WHO", "value": "me"}],
        }
    }
    config = read_kubeconfig(kubeconfig(folder, user=user)).exec_config
    assert config is not None
    return config


def says(status: str) -> str:
    answer = f'{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{status}}}'
    return f"cat <<EOF\n{answer}\nEOF"


@pytest.mark.usefixtures("loop")
def test_a_plugin_is_run_with_its_arguments_and_environment(tmp_path: Path) -> None:
    config = plugin(tmp_path, says('{"token":"$WHO-$1-$2","expirationTimestamp":"2030-01-01T00:00:00Z"}'))
    got = asyncio.run(run_plugin(config))
    assert got == ExecCredential("me-first-second", b"", b"", 1893456000.0)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no credentials >&2; exit 3", "process returned 3. no credentials"),
        ("echo junk", "failed to decode"),
        (says("{}"), "neither token nor clientCertificateData"),
        (says('{"clientCertificateData":"x"}'), "go together"),
        (says('{"token":"x","expirationTimestamp":"soon"}'), "'soon' is not an RFC 3339 time"),
        (says('{"token":7}'), "must be text"),
    ],
)
def test_failures_of_a_plugin_are_attributed_to_it(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        asyncio.run(run_plugin(plugin(tmp_path, script)))
    assert str(caught.value).startswith(f"exec plugin {tmp_path}/plugin: ")


def processes(argument: str) -> Iterator[Path]:
    """All that were started with it."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (path / "cmdline").read_bytes().split(b"\0"):
                yield path


@pytest.mark.usefixtures("loop")
def test_a_plugin_that_is_not_there_and_one_that_hangs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found or not executable Install it"):
        asyncio.run(run_plugin({"command": str(tmp_path / "none"), "apiVersion": "x", "installHint": "Install it"}))
    os.mkfifo(tmp_path / "silent")
    config = plugin(tmp_path, f"read -r line < {tmp_path}/silent")
    with pytest.raises(InputError, match="still running after 1 s"):
        asyncio.run(run_plugin(config, seconds=1))
    assert not list(processes(f"{tmp_path}/plugin")), "it was killed"


def test_a_plugins_credential_is_renewed_before_it_expires_and_after_a_401() -> None:
    clock, runs = Clock(), []
    wall = Clock()

    async def run(_: dict[str, Any]) -> ExecCredential:
        runs.append(clock.now)
        if len(runs) == 3:
            raise InputError("the cloud is away")
        return ExecCredential(f"t{len(runs)}", b"", b"", wall.now + 600)

    access = Access("https://x", "test", exec_config={"command": "x"})
    credentials = Credentials(access, clock=clock, wall=wall, plugin=run)
    assert [bearer(credentials), bearer(credentials)] == ["Bearer t1"] * 2
    clock.now += 539
    assert bearer(credentials) == "Bearer t1"
    wall.now -= 3600  # the clock is set back: nothing is delayed
    clock.now += 2
    assert bearer(credentials) == "Bearer t2"
    clock.now += 545
    assert bearer(credentials) == "Bearer t2", "the plugin failed, but the old credential is still good"
    clock.now += 20
    assert bearer(credentials) == "Bearer t4"
    credentials.rejected("Bearer t2")
    assert bearer(credentials) == "Bearer t4", "that was an older one"
    credentials.rejected("Bearer t4")
    assert bearer(credentials) == "Bearer t5"


def test_a_plugin_may_give_a_certificate() -> None:
    async def run(_: dict[str, Any]) -> ExecCredential:
        return ExecCredential("", CERT.read_bytes(), KEY.read_bytes(), None)

    credentials = Credentials(Access("https://x", "test", exec_config={"command": "x"}), plugin=run)
    assert bearer(credentials) == ""
    assert credentials.tls() is not None


# ---------------------------------------------------------------- cost


def test_kubernetes_asyncio_is_loaded_by_the_first_plugin_and_not_before(tmp_path: Path) -> None:
    """The package takes 36 MiB, which a Pod with a service account token must not need."""
    config = plugin(tmp_path, says('{"token":"t"}'))
    code = (
        "import asyncio, sys\n"
        "import ferrule.daemon.lifetime, ferrule.source.cluster, ferrule.source.api.exec_plugin as plugins\n"
        "loaded = lambda: 'kubernetes_asyncio' in sys.modules\n"
        "before = loaded()\n"
        f"print(before, asyncio.run(plugins.run_plugin({config!r})).token, loaded())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False t True\n"
