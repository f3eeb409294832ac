"""Port 10256: health endpoints for load balancers, kubelets and operators."""

from __future__ import annotations

from ferrule.observe.health import ProxyHealth, Readiness, Verdict
from ferrule.observe.metrics import Metrics
from ferrule.serve.http import JSON, NOT_FOUND, Handler, Request, Response

DEFAULT_PORT = 10256


def health_handler(health: ProxyHealth, readiness: Readiness, metrics: Metrics, *, in_full: bool = False) -> Handler:
    """Returns the handler of port 10256: /healthz and /livez as in kube-proxy, and ferrule's /readyz, with the
    reasons `in_full` if only this host can connect."""

    async def handle(request: Request) -> Response:
        if request.path == "/healthz":
            verdict = health.healthz()
            metrics.healthz(verdict.status)
        elif request.path == "/livez":
            verdict = health.livez()
            metrics.livez(verdict.status)
        elif request.path == "/readyz":
            return ready_response(readiness, in_full=in_full)
        else:
            return NOT_FOUND
        return _response(verdict)

    return handle


def ready_response(readiness: Readiness, *, in_full: bool) -> Response:
    """Returns the response to /readyz."""
    return _response(readiness.readyz(in_full=in_full))


def _response(verdict: Verdict) -> Response:
    return Response(verdict.body, JSON, verdict.status)
