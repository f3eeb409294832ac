"""Health and readiness: whether the proxy keeps up, whether the node accepts traffic, whether the first rules are
programmed.

There are three endpoints for three clients: a load balancer (`/healthz`: may this node receive traffic?), a kubelet
(`/livez`: does the process make progress?), and an operator (`/readyz`, ferrule's own: is everything programmed?).
Bodies and semantics of the first two are kube-proxy 1.37's. This module is pure: clocks are parameters.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from ferrule.types import FAMILIES, Family

FAMILY_NAMES: Mapping[Family, str] = {"ipv4": "IPv4", "ipv6": "IPv6"}
"""Family names as in the API and in kube-proxy's bodies and labels."""

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which kube-proxy reports for "not yet"."""

_NANOSECONDS = 10**9


def rfc3339(nanoseconds: int) -> str:
    """Formats a time as Go's RFC3339Nano in UTC: as many decimals as needed, none for a whole second."""
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    decimals = f"{rest:09d}".rstrip("0")
    return f"{stamp}.{decimals}Z" if decimals else f"{stamp}Z"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A health verdict: whether it is good, and its JSON body."""

    ok: bool
    body: bytes

    @property
    def status(self) -> int:
        """The HTTP status."""
        return 200 if self.ok else 503


class ProxyHealth:
    """Unhealthy once an update of a family has waited `patience` seconds or longer.

    A family counts from its first sync on. Before that it is healthy, as in kube-proxy: otherwise the liveness probe
    would kill a slow first sync on a large cluster again and again. `Readiness` covers that time.
    """

    def __init__(self, patience: float, *, clock: Callable[[], float], wall_ns: Callable[[], int]) -> None:
        """`patience` is twice the syncPeriod. `clock` is monotonic and used for decisions; `wall_ns` is only
        displayed."""
        self._patience = patience
        self._clock = clock
        self._wall_ns = wall_ns
        self._waiting_since: dict[Family, float] = {}
        self._updated_ns: dict[Family, int] = {}
        self._node_eligible = False

    def queued(self, family: Family) -> None:
        """Records a change that the family's rules must follow. Only the oldest one matters."""
        self._waiting_since.setdefault(family, self._clock())

    def updated(self, family: Family) -> None:
        """Records that the family's rules are in the kernel."""
        self._waiting_since.pop(family, None)
        self._updated_ns[family] = self._wall_ns()

    def set_node_eligible(self, eligible: bool) -> None:
        """Sets whether the node accepts traffic, see `OwnNode.eligible`. Initially it does not: kube-proxy treats a
        missing Node as not eligible."""
        self._node_eligible = eligible

    def _late(self, family: Family) -> bool:
        since = self._waiting_since.get(family)
        return since is not None and self._clock() - since >= self._patience

    @property
    def healthy(self) -> bool:
        """Returns whether the proxy keeps up, regardless of the node."""
        return not any(self._late(family) for family in self._updated_ns)

    def healthz(self) -> Verdict:
        """Returns the verdict for load balancers."""
        return self._verdict(self._node_eligible)

    def livez(self) -> Verdict:
        """Returns the verdict for the kubelet, regardless of the node: a drained node still needs its proxy."""
        return self._verdict(None)

    def _verdict(self, eligible: bool | None) -> Verdict:
        healthy = self.healthy
        ok = healthy and eligible is not False
        now = self._wall_ns()
        # When healthy, lastUpdated is now: old clients read no other field.
        last = now if ok else max(self._updated_ns.values(), default=None)
        body: dict[str, object] = {
            "lastUpdated": NEVER if last is None else rfc3339(last),
            "currentTime": rfc3339(now),
        }
        if eligible is not None:
            body["nodeEligible"] = eligible
        body["healthy"] = healthy
        if self._updated_ns:
            body["status"] = {
                FAMILY_NAMES[family]: {
                    "lastUpdated": rfc3339(self._updated_ns[family]),
                    "healthy": not self._late(family),
                }
                for family in FAMILIES
                if family in self._updated_ns
            }
        return Verdict(ok, orjson.dumps(body))


class Subsystem(enum.StrEnum):
    """The subsystems that can block readiness, each with one reason."""

    LISTS = "lists"
    NODE = "node"
    FIRST_SYNC_IPV4 = "first-sync-ipv4"
    FIRST_SYNC_IPV6 = "first-sync-ipv6"
    SERVICES = "services"
    API_ACCESS = "api-access"
    HEALTHZ_SERVER = "healthz-server"
    METRICS_SERVER = "metrics-server"
    SERVICE_HEALTH_PORTS = "service-health-ports"
    CONNTRACK = "conntrack"


MEANING: Mapping[Subsystem, str] = {
    Subsystem.LISTS: "the objects of the cluster have not all been listed",
    Subsystem.NODE: "no Node has this node's name",
    Subsystem.FIRST_SYNC_IPV4: "the first sync of the IPv4 rules is not complete",
    Subsystem.FIRST_SYNC_IPV6: "the first sync of the IPv6 rules is not complete",
    Subsystem.SERVICES: "the last sync failed",
    Subsystem.API_ACCESS: "the API server denies access",
    Subsystem.HEALTHZ_SERVER: "the health port does not listen",
    Subsystem.METRICS_SERVER: "the metrics port does not listen",
    Subsystem.SERVICE_HEALTH_PORTS: "a health check node port does not listen",
    Subsystem.CONNTRACK: "stale tracked flows cannot be deleted",
}
"""The meaning of each subsystem's reason, without details of this node: for ports that other hosts can reach."""

FIRST_SYNC: Mapping[Family, Subsystem] = {"ipv4": Subsystem.FIRST_SYNC_IPV4, "ipv6": Subsystem.FIRST_SYNC_IPV6}


class Readiness:
    """The reasons why not everything is programmed. Ready when there is none."""

    def __init__(
        self,
        reasons: Mapping[Subsystem, str],
        *,
        on_change: Callable[[Mapping[Subsystem, str]], None] = lambda _: None,
    ) -> None:
        """`reasons` apply from the start; `on_change` receives all reasons whenever one is added, removed or
        reworded."""
        self._reasons = dict(reasons)
        self._on_change = on_change
        on_change(self.reasons)

    def hold(self, subsystem: Subsystem, reason: str) -> None:
        """Blocks readiness with a reason, which replaces the subsystem's previous one."""
        if self._reasons.get(subsystem) != reason:
            self._reasons[subsystem] = reason
            self._on_change(self.reasons)

    def release(self, subsystem: Subsystem) -> None:
        """Removes the subsystem's reason."""
        if self._reasons.pop(subsystem, None) is not None:
            self._on_change(self.reasons)

    def report(self, subsystem: Subsystem, reason: str | None) -> None:
        """`hold` with a reason, `release` without."""
        if reason is None:
            self.release(subsystem)
        else:
            self.hold(subsystem, reason)

    @property
    def reasons(self) -> dict[Subsystem, str]:
        """Returns a copy of the reasons, sorted by subsystem."""
        return dict(sorted(self._reasons.items()))

    @property
    def ready(self) -> bool:
        """Returns whether there is no reason."""
        return not self._reasons

    @property
    def programmed(self) -> bool:
        """Whether everything known is in the kernel. The name of the Node does not matter: a supervisor that waits
        for readiness would otherwise end the process and only cause restarts."""
        return not self._reasons.keys() - {Subsystem.NODE}

    def readyz(self, *, in_full: bool) -> Verdict:
        """`{"ready":false,"reasons":{"lists":"…"}}`. Reasons `in_full` quote rules, addresses and paths; otherwise each
        has its fixed `MEANING`."""
        reasons = {name.value: reason if in_full else MEANING[name] for name, reason in self.reasons.items()}
        return Verdict(self.ready, orjson.dumps({"ready": self.ready, "reasons": reasons}))
