"""Reads a kubeconfig, or the service account of the current Pod.

ferrule has its own reader because `kubernetes_asyncio.config.kube_config` writes embedded keys to temporary files
(impossible with a read-only root), reads tokenFile and certificates once, and names neither file nor field in errors.
The remaining work is base64 and a dozen key lookups.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ferrule.errors import InputError
from ferrule.source.api.access import Access, Material
from ferrule.source.api.server_url import server_url
from ferrule.yamljson import YamlError, load_first

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

FILE_LIMIT = 4 << 20
"""Maximum size of a kubeconfig in bytes. A larger file is not one."""


def find_access(
    kubeconfig: str, master: str, *, environment: Mapping[str, str] = os.environ, allow_insecure: bool = False
) -> Access:
    """Chooses as kube-proxy does: a kubeconfig, else `--master` alone (without an identity), else the current Pod.

    Raises `InputError`. `allow_insecure` accepts a kubeconfig that disables the verification of the server's
    certificate; otherwise such a file is rejected.
    """
    if kubeconfig:
        return read_kubeconfig(Path(kubeconfig), master=master, allow_insecure=allow_insecure)
    if master:
        return Access(server_url(master, "--master", tls=False), "--master", warnings=("--master alone: no identity",))
    return in_cluster(environment)


def in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """Returns the service account of the current Pod. The token is read whenever it is needed, because bound tokens
    rotate."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise InputError(
            "no way to an API server: neither clientConnection.kubeconfig (or --kubeconfig) nor --master is set, and"
            " KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not both set, so this is not a Pod either"
        )
    for name in ("token", "ca.crt"):
        _check_readable(folder / name, "the Pod's service account")
    host = f"[{host}]" if ":" in host else host
    return Access(
        f"https://{host}:{port}",
        "the Pod's service account",
        ca=Material("service account ca.crt", path=folder / "ca.crt"),
        token=Material("service account token", path=folder / "token"),
    )


def read_kubeconfig(path: Path, *, master: str = "", allow_insecure: bool = False) -> Access:
    """Reads the current context of a kubeconfig. Raises `InputError` with file, field and value."""
    config, warnings = _load(path)
    file = _Section(path, "", config)
    wanted = file.text("current-context")
    if not wanted:
        raise file.wrong("current-context", "is empty: it must name one of contexts")
    context = file.named("contexts", wanted, "context", "current-context")
    cluster = file.named("clusters", context.text("cluster"), "cluster", f"{context.name}.cluster")
    user_name = context.text("user")
    user = file.named("users", user_name, "user", f"{context.name}.user") if user_name else _Section(path, "user", {})
    for gone, instead in (("auth-provider", "exec"), ("as", "the user's own identity")):
        if user.values.get(gone):
            raise user.wrong(gone, f"is not supported: use {instead}")
    ca = cluster.material("certificate-authority-data", "certificate-authority")
    insecure = cluster.flag("insecure-skip-tls-verify")
    if insecure and ca is not None:
        raise cluster.wrong("insecure-skip-tls-verify", "is true, but a certificate authority is given: drop one")
    if insecure and not allow_insecure and not master.startswith("http://"):
        raise cluster.wrong(
            "insecure-skip-tls-verify", "is true: ferrule always verifies the API server; give certificate-authority"
        )
    if insecure:
        warnings.append(f"{path}: {cluster.name}.insecure-skip-tls-verify: any server is accepted as the API server")
    certificate = user.material("client-certificate-data", "client-certificate")
    key = user.material("client-key-data", "client-key")
    if (certificate is None) is not (key is None):
        one, other = ("client-certificate", "client-key")[:: 1 if key is None else -1]
        raise user.wrong(other, f"is missing, but {one} is given: they go together")
    token = user.token()
    exec_config = _exec(user)
    if exec_config is not None and (token is not None or certificate is not None):
        raise user.wrong("exec", "stands beside a token or client certificate: drop one")
    basic = (user.text("username"), user.text("password"))
    if key is not None and key.path is not None:
        warnings += _mode_warnings(key.path, secret=True)
    if any(m is not None and m.path is None for m in (key, token)) or exec_config is not None:
        warnings += _mode_warnings(path, secret=exec_config is None)
    server = cluster.text("server") or master
    if not server:
        raise cluster.wrong("server", "is empty: it must be the API server's URL")
    tls = insecure or ca is not None or certificate is not None
    text, where = (master, "--master") if master else (server, f"{path}: {cluster.name}.server")
    checked = server_url(text, where, tls=tls)
    return Access(
        checked,
        f"{path}, context {wanted}" + (", server from --master" if master else ""),
        ca=ca,
        tls_server_name=cluster.text("tls-server-name"),
        verify=not insecure,
        proxy=_proxy(cluster, checked),
        token=token,
        basic=basic if basic[0] else None,
        certificate=certificate,
        key=key,
        exec_config=exec_config,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _load(path: Path) -> tuple[dict[str, Any], list[str]]:
    _check_readable(path, "the kubeconfig")
    if path.stat().st_size > FILE_LIMIT:
        raise InputError(f"{path}: larger than {FILE_LIMIT >> 20} MiB, so not a kubeconfig")
    try:
        config, repeated = load_first(path.read_bytes())
    except YamlError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a kubeconfig: expected a mapping with clusters, users and contexts")
    warnings = [f"{path}: key {key!r} is given twice; the last one counts" for key in repeated]
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        warnings.append(
            f"{path}: mode {stat.S_IMODE(mode):04o}: any user may rewrite it and redirect ferrule to another server"
        )
    return config, warnings


def _check_readable(path: Path, what: str) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: {what} does not exist") from error
    except PermissionError as error:
        mode = ""
        if path.exists():
            status = path.stat()
            mode = f" (mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid})"
        raise InputError(f"{path}: {what} may not be read by user {os.geteuid()}{mode}") from error
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in its name
        raise InputError(f"{str(path)!r}: {what} cannot be read: {error}") from error


def _mode_warnings(path: Path, *, secret: bool) -> list[str]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return []  # reported with its reason when it is read
    if mode & stat.S_IWOTH:
        return [f"{path}: mode {mode:04o}: any user may rewrite it and redirect ferrule to another server"]
    if secret and mode & stat.S_IROTH:
        return [f"{path}: mode {mode:04o}: it holds a key or token that any user may read"]
    return []


def _proxy(cluster: _Section, server: str) -> str:
    text = cluster.text("proxy-url")
    try:
        usable = not text or urlsplit(text).scheme in ("http", "https")
    except ValueError as error:
        raise cluster.wrong("proxy-url", f"{text!r} is not a URL: {error}") from error
    if not usable:
        raise cluster.wrong("proxy-url", "must begin with http:// or https://")
    if text and server.startswith("http:"):
        reason = f"would get everything sent to {server} in clear text: use https:// or no proxy"
        raise cluster.wrong("proxy-url", reason)
    return text


def _exec(user: _Section) -> dict[str, Any] | None:
    config = user.values.get("exec")
    if config is None:
        return None
    if not isinstance(config, dict):
        raise user.wrong("exec", "must be a mapping")
    section = _Section(user.path, f"{user.name}.exec", config)
    command = section.text("command")
    if not command:
        raise section.wrong("command", "is empty: it must name the credential plugin")
    if not section.text("apiVersion").startswith("client.authentication.k8s.io/"):
        raise section.wrong("apiVersion", "must be client.authentication.k8s.io/v1 or v1beta1")
    if section.text("interactiveMode") == "Always":
        raise section.wrong("interactiveMode", "asks for a terminal, and a daemon has none")
    for name in ("args", "env"):
        if not isinstance(config.get(name) or [], list):
            raise section.wrong(name, "must be a list")
    for number, item in enumerate(config.get("env") or ()):
        if (
            not isinstance(item, dict)
            or not isinstance(item.get("name"), str)
            or not isinstance(item.get("value"), str)
        ):
            raise section.wrong(f"env[{number}]", "must have a name and a value, both text")
    if "\0" in command:
        raise section.wrong("command", "must not hold a NUL character")
    if "/" in command:
        command = str((user.path.parent / command).resolve())
    return {**config, "command": command, "args": [str(a) for a in config.get("args") or ()]}


class _Section:
    """One mapping of the file, with its name for messages."""

    def __init__(self, path: Path, name: str, values: dict[str, Any]) -> None:
        self.path = path
        self.name = name
        self.values = values

    def wrong(self, field: str, why: str) -> InputError:
        where = f"{self.name}.{field}" if self.name else field
        return InputError(f"{self.path}: {where} {why}")

    def text(self, field: str) -> str:
        value = self.values.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(field, f"must be text, not {value!r}")
        return value.strip()

    def flag(self, field: str) -> bool:
        value = self.values.get(field)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(field, f"must be true or false, not {value!r}")
        return bool(value)

    def named(self, collection: str, name: str, inner: str, asked_by: str) -> _Section:
        """Returns the entry of `collection` called `name`. The first one counts, as in client-go."""
        entries = self.values.get(collection)
        if not isinstance(entries, list):
            raise self.wrong(collection, "must be a list" if entries else "is missing")
        there = []
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                if entry["name"] == name:
                    values = entry.get(inner)
                    where = f"{collection}[{name}].{inner}"
                    if not isinstance(values or {}, dict):
                        raise InputError(f"{self.path}: {where} must be a mapping")
                    return _Section(self.path, where, values or {})
                there.append(entry["name"])
        known = ", ".join(there) or "none at all"
        raise InputError(f"{self.path}: {asked_by} is {name!r}, but {collection} has no such entry (there: {known})")

    def material(self, data_field: str, path_field: str) -> Material | None:
        """Returns the material. Embedded data takes precedence over a file, as in client-go."""
        data = self.text(data_field)
        if data:
            try:
                return Material(f"{self.name}.{data_field}", base64.b64decode("".join(data.split()), validate=True))
            except (binascii.Error, ValueError) as error:
                raise self.wrong(data_field, f"is not base64: {error}") from error
        name = self.text(path_field)
        if not name:
            return None
        path = self.path.parent / name
        _check_readable(path, f"{self.name}.{path_field}")
        return Material(f"{self.name}.{path_field}", path=path)

    def token(self) -> Material | None:
        """Returns the token. A file takes precedence over an embedded token, as in client-go's transport."""
        name = self.text("tokenFile")
        if name:
            path = self.path.parent / name
            _check_readable(path, f"{self.name}.tokenFile")
            return Material(f"{self.name}.tokenFile", path=path)
        token = self.text("token")
        return Material(f"{self.name}.token", token.encode()) if token else None
