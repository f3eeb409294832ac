"""Whether the proxy keeps up, whether the node wants traffic, whether the first rules are in place.

Three questions with three answers, asked by three kinds of people: a load balancer (`/healthz`: may this node get
traffic?), a kubelet (`/livez`: is the process stuck?), and an operator (`/readyz`, ours: is everything programmed?).
Bodies and rules of the first two are kube-proxy 1.37's. Pure: clocks are given, nothing is opened here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from ferrule.types import FAMILIES, Family

FAMILY_NAMES: Mapping[Family, str] = {"ipv4": "IPv4", "ipv6": "IPv6"}
"""As the API and kube-proxy's bodies and labels write them."""

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: kube-proxy's word for "not yet"."""

_NANOSECONDS = 10**9


def rfc3339(nanoseconds: int) -> str:
    """Go's RFC3339Nano in UTC: as many decimals as there are, none for a whole second."""
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    decimals = f"{rest:09d}".rstrip("0")
    return f"{stamp}.{decimals}Z" if decimals else f"{stamp}Z"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer: whether it is good, and the JSON that says so."""

    ok: bool
    body: bytes

    @property
    def status(self) -> int:
        """The HTTP status."""
        return 200 if self.ok else 503


class ProxyHealth:
    """Unhealthy once an update of a family has waited `patience` seconds or longer.

    A family counts from its first sync on: until then it is starting up and healthy, as in kube-proxy, or a slow first
    sync on a large cluster would be killed by its liveness probe for ever. `Readiness` covers that time.
    """

    def __init__(self, patience: float, *, clock: Callable[[], float], wall_ns: Callable[[], int]) -> None:
        """`patience`: twice the syncPeriod. `clock` never jumps and decides; `wall_ns` is only shown."""
        self._patience = patience
        self._clock = clock
        self._wall_ns = wall_ns
        self._waiting_since: dict[Family, float] = {}
        self._updated_ns: dict[Family, int] = {}
        self._node_eligible = False

    def queued(self, family: Family) -> None:
        """Something changed that the family's rules must follow. Only the oldest one counts."""
        self._waiting_since.setdefault(family, self._clock())

    def updated(self, family: Family) -> None:
        """The family's rules are in the kernel."""
        self._waiting_since.pop(family, None)
        self._updated_ns[family] = self._wall_ns()

    def set_node_eligible(self, eligible: bool) -> None:
        """See `OwnNode.eligible`. Until the first word it is not: kube-proxy takes a missing Node for a bad one."""
        self._node_eligible = eligible

    def _late(self, family: Family) -> bool:
        since = self._waiting_since.get(family)
        return since is not None and self._clock() - since >= self._patience

    @property
    def healthy(self) -> bool:
        """The proxy keeps up; says nothing of the node."""
        return not any(self._late(family) for family in self._updated_ns)

    def healthz(self) -> Verdict:
        """For load balancers."""
        return self._verdict(self._node_eligible)

    def livez(self) -> Verdict:
        """For the kubelet: a node that is drained needs its proxy more than ever."""
        return self._verdict(None)

    def _verdict(self, eligible: bool | None) -> Verdict:
        healthy = self.healthy
        ok = healthy and eligible is not False
        now = self._wall_ns()
        # When all is well, lastUpdated is now: old readers look at nothing else.
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
    """Who may hold readiness back. One reason each."""

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
"""What a reason means, without anything of this node's: for ports that other hosts can reach."""

FIRST_SYNC: Mapping[Family, Subsystem] = {"ipv4": Subsystem.FIRST_SYNC_IPV4, "ipv6": Subsystem.FIRST_SYNC_IPV6}


class Readiness:
    """The reasons why not everything that should be programmed is. Ready when there is none."""

    def __init__(
        self,
        reasons: Mapping[Subsystem, str],
        *,
        on_change: Callable[[Mapping[Subsystem, str]], None] = lambda _: None,
    ) -> None:
        """`reasons` hold from the start; `on_change` gets all reasons whenever one comes, goes or is reworded."""
        self._reasons = dict(reasons)
        self._on_change = on_change
        on_change(self.reasons)

    def hold(self, subsystem: Subsystem, reason: str) -> None:
        """Not ready, because of this; replaces the subsystem's reason."""
        if self._reasons.get(subsystem) != reason:
            self._reasons[subsystem] = reason
            self._on_change(self.reasons)

    def release(self, subsystem: Subsystem) -> None:
        """It is in order (again)."""
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
        """A copy, sorted by name."""
        return dict(sorted(self._reasons.items()))

    @property
    def ready(self) -> bool:
        """Nothing holds it back."""
        return not self._reasons

    @property
    def programmed(self) -> bool:
        """Everything that is known is in the kernel. A start that nothing but the Node's name holds back is complete:
        a supervisor that waited for readiness would end the process and so only add restarts."""
        return not self._reasons.keys() - {Subsystem.NODE}

    def readyz(self, *, in_full: bool) -> Verdict:
        """`{"ready":false,"reasons":{"lists":"…"}}`. Reasons `in_full` quote rules, addresses and paths; otherwise each
        has its fixed `MEANING`."""
        reasons = {name.value: reason if in_full else MEANING[name] for name, reason in self.reasons.items()}
        return Verdict(self.ready, orjson.dumps({"ready": self.ready, "reasons": reasons}))
