"""Port 10256: what load balancers, kubelets and operators ask."""

from __future__ import annotations

from ferrule.observe.health import ProxyHealth, Readiness, Verdict
from ferrule.observe.metrics import Metrics
from ferrule.serve.http import JSON, NOT_FOUND, Answer, Handler, Question

DEFAULT_PORT = 10256


def health_handler(health: ProxyHealth, readiness: Readiness, metrics: Metrics) -> Handler:
    """/healthz and /livez as kube-proxy; /readyz is ours."""

    async def handle(question: Question) -> Answer:
        if question.path == "/healthz":
            verdict = health.healthz()
            metrics.healthz(verdict.status)
        elif question.path == "/livez":
            verdict = health.livez()
            metrics.livez(verdict.status)
        elif question.path == "/readyz":
            verdict = readiness.readyz()
        else:
            return NOT_FOUND
        return _answer(verdict)

    return handle


def _answer(verdict: Verdict) -> Answer:
    return Answer(verdict.body, JSON, verdict.status)
