"""A small client for administrators: JSON over HTTPS from inside a namespace, one request at a time."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferrule.testing.netns import NetNs
from tests.e2e.harness.certs import KeyPair

Object = dict[str, Any]
SECONDS = 15.0

_PATHS = {
    "Service": ("/api/v1", "services", True),
    "Pod": ("/api/v1", "pods", True),
    "Endpoints": ("/api/v1", "endpoints", True),
    "Event": ("/apis/events.k8s.io/v1", "events", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "Namespace": ("/api/v1", "namespaces", False),
    "Node": ("/api/v1", "nodes", False),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices", True),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "DaemonSet": ("/apis/apps/v1", "daemonsets", True),
}


class ApiError(Exception):
    """The server responded with an error."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Returns the body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Returns the decoded body."""
        return json.loads(self.body)


def request(
    netns: NetNs,
    host: str,
    port: int,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    seconds: float = SECONDS,
) -> Reply:
    """Sends one request on a connection of its own from inside the namespace. Raises `OSError` without an answer."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    plain = netns.call(lambda: socket.create_connection((host, port), seconds))
    try:
        connection.sock = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        plain = connection.sock
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.getheaders()), answer.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"{host}:{port}{path}: {error!r}") from error
    finally:
        connection.close()
        plain.close()


class Api:
    """Reads and writes whole objects as dictionaries. Raises `ApiError` when the server refuses, `OSError` when it
    is unreachable."""

    def __init__(
        self, netns: NetNs, host: str, port: int, ca: Path, *, client: KeyPair | None, token: str = ""
    ) -> None:
        self._where = (netns, host, port)
        self._token = token
        self._tls = ssl.create_default_context(cafile=str(ca))
        if client is not None:
            self._tls.load_cert_chain(client.cert, client.key)

    def call(self, method: str, path: str, body: Object | None = None, *, content: str = "application/json") -> Any:
        """Sends a request with any path."""
        headers = {"Content-Type": content, "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        reply = request(*self._where, path, method=method, body=data, headers=headers, tls=self._tls)
        if reply.status >= 400:
            raise ApiError(reply.status, reply.text[:2000])
        return reply.json() if reply.body.startswith((b"{", b"[")) else reply.text

    def create(self, thing: Object) -> Object:
        """Creates an object. Returns it as stored."""
        return dict(self.call("POST", _collection(thing["kind"], thing["metadata"].get("namespace")), thing))

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """Returns an object; raises `ApiError` 404 if it does not exist."""
        return dict(self.call("GET", _path(kind, name, namespace)))

    def find(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """Returns an object; None if it does not exist."""
        try:
            return self.get(kind, name, namespace)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def list(self, kind: str, namespace: str | None = None, *, labels: str = "") -> list[Object]:
        """Returns all objects of a namespace, or of the cluster. The items include their kind."""
        group = _PATHS[kind][0]
        version = group.removeprefix("/apis/").removeprefix("/api/")
        query = f"?labelSelector={labels}" if labels else ""
        items = self.call("GET", _collection(kind, namespace) + query)["items"]
        return [{"apiVersion": version, "kind": kind} | item for item in items]

    def replace(self, thing: Object) -> Object:
        """Sends a PUT; its resourceVersion must be current, or absent."""
        return dict(self.call("PUT", _of(thing), thing))

    def patch(
        self, kind: str, name: str, namespace: str | None, change: Object, *, status: bool = False, merge: bool = True
    ) -> Object:
        """Sends a merge patch (lists are replaced), or a strategic one; `status` patches the subresource."""
        content = f"application/{'merge' if merge else 'strategic-merge'}-patch+json"
        path = _path(kind, name, namespace) + ("/status" if status else "")
        return dict(self.call("PATCH", path, change, content=content))

    def delete(self, kind: str, name: str, namespace: str | None = None, *, grace: int | None = 0) -> None:
        """Deletes an object if it exists. A Pod with `grace` > 0 stays terminating: no kubelet ends it."""
        body = {} if grace is None else {"gracePeriodSeconds": grace}
        try:
            self.call("DELETE", _path(kind, name, namespace), body)
        except ApiError as error:
            if error.status != 404:
                raise

    def delete_all(self, kind: str, namespace: str) -> None:
        """Deletes a whole collection."""
        self.call("DELETE", _collection(kind, namespace), {"gracePeriodSeconds": 0})

    def apply(self, thing: Object, *, dry_run: bool = False) -> Object:
        """Applies an object on the server with field manager `e2e`; unknown fields are rejected."""
        query = "?fieldManager=e2e&force=true&fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return dict(self.call("PATCH", _of(thing) + query, thing, content="application/apply-patch+yaml"))

    def token(self, account: str, namespace: str, seconds: int = 3600) -> str:
        """Returns a new service account token. The server grants no less than 600 seconds."""
        ask = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}
        path = _path("ServiceAccount", account, namespace) + "/token"
        return str(self.call("POST", path, ask)["status"]["token"])


def _collection(kind: str, namespace: str | None) -> str:
    group, plural, namespaced = _PATHS[kind]
    return f"{group}/namespaces/{namespace}/{plural}" if namespaced and namespace else f"{group}/{plural}"


def _path(kind: str, name: str, namespace: str | None) -> str:
    return f"{_collection(kind, namespace)}/{name}"


def _of(thing: Object) -> str:
    return _path(thing["kind"], thing["metadata"]["name"], thing["metadata"].get("namespace"))
