"""A minimal control plane: etcd, kube-apiserver and kube-controller-manager in a namespace, with TLS and RBAC.

It can be stopped, killed and started again; etcd keeps its data. No part of it is a mock.
"""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ferrule.testing.lab import SERVICE_RANGES
from tests.e2e.harness.api import Api, ApiError, Object, request
from tests.e2e.harness.certs import Authority, token_keys
from tests.e2e.harness.fabric import API_IPS, Fabric
from tests.e2e.harness.process import Process
from tests.e2e.harness.tokens import mint
from tests.e2e.harness.waiting import eventually

CONTROLPLANE = Path(
    os.environ.get("FERRULE_CONTROLPLANE", str(Path(__file__).parents[3] / "target" / "e2e" / "controlplane"))
)
PORT, ETCD_PORT = 6443, 2379
ISSUER = "https://kubernetes.default.svc.cluster.local"
LOCALHOST = "127.0.0.1"
# The controllers that Services depend on. Not the node lifecycle controller: without kubelets it would mark every Pod
# unready.
CONTROLLERS = (
    "endpointslice-controller,endpointslice-mirroring-controller,endpoints-controller,namespace-controller,"
    "serviceaccount-controller,root-ca-certificate-publisher-controller,garbage-collector-controller"
)
ACCOUNT, ACCOUNT_NAMESPACE = "kube-proxy", "kube-system"


class Cluster:
    """A control plane in the fabric's `api` host, with its files in `folder`. Use as a context manager: ready
    inside."""

    def __init__(self, fabric: Fabric, folder: Path) -> None:
        self.fabric = fabric
        self.folder = folder
        self.host = fabric.api
        self.address = API_IPS[0]
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(folder / "pki")
        self.server_cert = self.authority.issue(
            "apiserver", addresses=(*API_IPS, LOCALHOST, "::1", "kubernetes", "kubernetes.default.svc", "localhost")
        )
        self.admin_cert = self.authority.issue("admin", user="e2e-admin", group="system:masters")
        self.token_keys = token_keys(folder / "pki")
        # On loopback, so that it works while the fabric is cut.
        self.api = Api(self.host.netns, LOCALHOST, PORT, self.ca, client=self.admin_cert)
        self.etcd: Process | None = None
        self.api_server: Process | None = None
        self.controllers: Process | None = None

    @property
    def ca(self) -> Path:
        """The CA certificate for clients."""
        return self.authority.pair.cert

    @property
    def url(self) -> str:
        """The URL for nodes, over the fabric."""
        return f"https://{self.address}:{PORT}"

    def __enter__(self) -> Cluster:
        try:
            self._start_etcd()
            self.start_api_server()
            self._start_controllers()
            self._kubeadm()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        for process in (self.controllers, self.api_server, self.etcd):
            if process is not None:
                process.kill()

    # ------------------------------------------------------------ the API server's life

    def start_api_server(self) -> None:
        """Starts the API server; returns once it is ready, including RBAC's default roles."""
        if self.api_server is not None and self.api_server.alive:
            return
        keys, own = self.token_keys, self.server_cert
        self.api_server = self._run(
            "kube-apiserver",
            f"--etcd-servers=http://{LOCALHOST}:{ETCD_PORT}",
            f"--advertise-address={self.address}",
            f"--secure-port={PORT}",
            f"--tls-cert-file={own.cert}",
            f"--tls-private-key-file={own.key}",
            f"--client-ca-file={self.ca}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={keys.cert}",
            f"--service-account-signing-key-file={keys.key}",
            f"--service-cluster-ip-range={SERVICE_RANGES[0]},{SERVICE_RANGES[1]}",
            "--authorization-mode=Node,RBAC",
            "--anonymous-auth=false",
            # Test Pods have no account; otherwise every test would wait for its namespace's default one.
            "--disable-admission-plugins=ServiceAccount",
            "--profiling=false",
            # As in kubeadm: a node's own programs need it.
            "--allow-privileged=true",
        )
        self.wait_until_ready()

    def stop_api_server(self, *, kill: bool = False) -> None:
        """Stops it with SIGTERM or SIGKILL; new connections are refused afterwards."""
        assert self.api_server is not None
        if kill:
            self.api_server.stop(signal.SIGKILL)
            return
        try:
            self.api_server.stop(seconds=15)
        except AssertionError:
            self.api_server.kill()  # it waits for long requests, up to a minute

    def restart_api_server(self, *, kill: bool = False) -> None:
        """Restarts it and waits until it is ready."""
        self.stop_api_server(kill=kill)
        self.start_api_server()

    @contextmanager
    def api_server_stopped(self) -> Iterator[None]:
        """Stops it for the duration of the block."""
        self.stop_api_server(kill=True)
        try:
            yield
        finally:
            self.start_api_server()

    @contextmanager
    def api_server_paused(self) -> Iterator[None]:
        """Freezes the API server (SIGSTOP): the kernel accepts connections, and no request is answered."""
        assert self.api_server is not None
        self.api_server.child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.api_server.child.send_signal(signal.SIGCONT)
            self.wait_until_ready()

    @contextmanager
    def black_hole(self, port: int = PORT) -> Iterator[None]:
        """Drops packets between nodes and the server's port inside: no RST, no ICMP. The `api` client still works."""
        with self.fabric.cut(self.host, port):
            yield

    def wait_until_ready(self) -> None:
        """Waits until `/readyz` is ok."""

        def ready() -> bool:
            server = self.api_server
            if server is not None and not server.alive:
                raise RuntimeError(f"kube-apiserver ended ({server.child.returncode}):\n{server.tail()}")
            try:
                return bool(self.api.call("GET", "/readyz") == "ok")
            except (OSError, ApiError):
                return False

        eventually(
            ready, lambda: "kube-apiserver is not ready:\n" + (self.api_server.tail() if self.api_server else "")
        )

    def ensure_up(self) -> None:
        """Restores all components after a test that failed during a fault."""
        if self.etcd is None or not self.etcd.alive:
            self._start_etcd()
        self.start_api_server()
        self.wait_until_ready()
        if self.controllers is None or not self.controllers.alive:
            self._start_controllers()

    def expire_watches(self) -> None:
        """Compacts etcd and restarts the server: it rejects every earlier resourceVersion with a 410."""
        self.compact()
        self.restart_api_server(kill=True)

    def compact(self) -> int:
        """Compacts etcd at its current revision, and returns it. A running API server still serves its own cache."""
        revision = self._etcd("range", {"key": base64.b64encode(b"compact").decode()})["header"]["revision"]
        self._etcd("compaction", {"revision": revision, "physical": True})
        return int(revision)

    def requests(self) -> dict[str, float]:
        """Returns the server's count of requests by resource."""
        counted: dict[str, float] = {}
        for line in str(self.api.call("GET", "/metrics")).splitlines():
            if line.startswith("apiserver_request_total{"):
                resource = line.partition('resource="')[2].partition('"')[0]
                counted[resource] = counted.get(resource, 0) + float(line.rsplit(" ", 1)[1])
        return counted

    # ------------------------------------------------------------ accounts

    def token(self, seconds: float = 3600) -> str:
        """Returns a token for kube-proxy's account: a real TokenRequest from 600 s on; below that one signed by the
        harness.

        The server allows a minute of clock skew and caches a valid token for 10 s: -55 is rejected after 5 to 15 s.
        """
        if seconds >= 600:
            return self.api.token(ACCOUNT, ACCOUNT_NAMESPACE, int(seconds))
        account = self.api.get("ServiceAccount", ACCOUNT, ACCOUNT_NAMESPACE)
        return mint(
            self.token_keys.key,
            issuer=ISSUER,
            namespace=ACCOUNT_NAMESPACE,
            account=ACCOUNT,
            uid=account["metadata"]["uid"],
            seconds=seconds,
        )

    def grant(self) -> None:
        """Binds kube-proxy's account to system:node-proxier, as kubeadm does."""
        self.api.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "kubeadm:node-proxier"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "system:node-proxier",
                },
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": ACCOUNT_NAMESPACE}],
            }
        )

    def revoke(self) -> None:
        """Removes the binding: every request of the account is a 403 from then on."""
        self.api.delete("ClusterRoleBinding", "kubeadm:node-proxier")

    def kubeconfig(self, path: Path, *, server: str | None = None, token: str | None = None) -> Path:
        """Writes a kubeconfig with a `tokenFile` (PATH.token) and the CA's file, as kubeadm mounts them; rewrite it
        to rotate."""
        secret = path.with_suffix(".token")
        secret.write_text(self.token() if token is None else token)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "default",
                    "cluster": {"certificate-authority": str(self.ca), "server": server or self.url},
                }
            ],
            "contexts": [
                {"name": "default", "context": {"cluster": "default", "namespace": "default", "user": "default"}}
            ],
            "current-context": "default",
            "users": [{"name": "default", "user": {"tokenFile": str(secret)}}],
        }
        path.write_text(json.dumps(config))
        return path

    # ------------------------------------------------------------ inside

    def _run(self, component: str, *arguments: str) -> Process:
        argv = (str(CONTROLPLANE), component, *arguments)
        return Process(self.host.netns, argv, self.folder / f"{component}.log")

    def _start_etcd(self) -> None:
        self.etcd = self._run(
            "etcd",
            "--name=e2e",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://{LOCALHOST}:{ETCD_PORT}",
            f"--advertise-client-urls=http://{LOCALHOST}:{ETCD_PORT}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=e2e=http://127.0.0.1:2380",
            # This data need not survive a power failure.
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_controllers(self) -> None:
        pair = self.authority.issue("controller-manager", user="system:kube-controller-manager")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "x", "cluster": {"certificate-authority": str(self.ca), "server": f"https://127.0.0.1:{PORT}"}}
            ],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "current-context": "x",
            "users": [{"name": "x", "user": {"client-certificate": str(pair.cert), "client-key": str(pair.key)}}],
        }
        kubeconfig = self.folder / "controller-manager.kubeconfig"
        kubeconfig.write_text(json.dumps(config))
        self.controllers = self._run(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            f"--controllers={CONTROLLERS}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.token_keys.key}",
            f"--root-ca-file={self.ca}",
            "--leader-elect=false",
            "--secure-port=0",
            "--concurrent-service-endpoint-syncs=10",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )

    def _kubeadm(self) -> None:
        """Creates the parts of `kubeadm init` that a proxy needs."""
        eventually(lambda: self.api.find("Namespace", ACCOUNT_NAMESPACE), "no namespace kube-system")
        account: Object = {"apiVersion": "v1", "kind": "ServiceAccount"}
        self.api.create(account | {"metadata": {"name": ACCOUNT, "namespace": ACCOUNT_NAMESPACE}})
        eventually(lambda: self.api.find("ClusterRole", "system:node-proxier"), "no ClusterRole system:node-proxier")
        self.grant()

    def _etcd(self, verb: str, body: Object) -> Object:
        reply = request(
            self.host.netns, LOCALHOST, ETCD_PORT, f"/v3/kv/{verb}", method="POST", body=json.dumps(body).encode()
        )
        if reply.status != 200:
            raise RuntimeError(f"etcd {verb}: {reply.status}: {reply.text}")
        return dict(reply.json())
