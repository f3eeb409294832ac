"""The Rust sync engine. Every fact about the cluster and every byte of rules comes from here.

Few coarse calls: bytes in, bytes out, no Python value per object. All calls release the GIL around pure work. One
owner calls them, never two threads at once (`sync/loop.py`).
"""

from collections.abc import Iterator, Sequence
from typing import Literal, final

from ferrule.types import Family, Kind

__all__ = [
    "CANARY_CHAIN",
    "SERVICES_CHAIN",
    "AddressDump",
    "ConntrackView",
    "DriftReport",
    "Engine",
    "EngineOptions",
    "FamilyFacts",
    "HealthCheck",
    "IngestReport",
    "InputError",
    "NotReady",
    "NotUnderstood",
    "PayloadPieces",
    "Plan",
    "Problem",
    "Removal",
    "RuleReader",
    "RulesChanged",
    "StaleFlows",
    "StalePlan",
    "Transaction",
    "Transactions",
    "acknowledgements",
    "build_info",
    "counter_creation",
    "counter_request",
    "counter_values",
    "removals",
]

CANARY_CHAIN: str
"""The chain that stands in every table and has no rules: where it is missing, the table was flushed."""
SERVICES_CHAIN: str
"""The dispatch chain of nat, which kube-proxy has, too."""

class InputError(ValueError):
    """An option or a whole batch cannot be used. Single bad objects never raise: see `Engine.problems`."""

class NotReady(RuntimeError):
    """`plan` was called before every kind was listed, or before the kernel's state was observed."""

class NotUnderstood(ValueError):
    """The kernel's rules have something in a form that only their own tool may know; says where and what."""

class RulesChanged(RuntimeError):
    """The kernel's rules changed while they were read: begin again."""

class StalePlan(RuntimeError):
    """`commit` or `abandon` was given a plan that is not the one in flight, or a plan's text was asked for again after
    it was taken."""

@final
class EngineOptions:
    """What the rules depend on besides cluster objects. Immutable; wrong values raise `InputError`."""

    def __new__(
        cls,
        *,
        node_name: str,
        node_ips: Sequence[str] = ...,
        masquerade_all: bool = False,
        masquerade_bit: int = 14,
        masquerade_random_fully: bool = True,
        localhost_node_ports: bool = True,
        conntrack_tcp_be_liberal: bool = False,
        nfacct_invalid_dropped: bool = False,
        nfacct_localhost_accepted: bool = False,
        node_port_addresses: Sequence[str] = ...,
        local_detector: Literal["None", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"] = "None",
        cluster_cidrs: Sequence[str] = ...,
        local_interface: str = "",
        external_ips: bool = True,
        ordered_blocks: bool = False,
        dispatch: Literal["auto", "flat", "tree"] = "auto",
        balance: Literal["auto", "flat", "tree"] = "auto",
        first_services: Sequence[str] = ...,
        digest_key: bytes = ...,
    ) -> EngineOptions:
        """`node_ips` stand in for a Node object without addresses (at most one a family); `node_port_addresses`
        are CIDRs and the words `primary`, `localhost`, `all`, empty for everywhere; `local_interface` is the bridge
        name or the prefix of its mode; without `external_ips`, Services' externalIPs are left out; `ordered_blocks`
        cuts large writes into transactions (for the nft backend, whose tool is quadratic in the size of one);
        `dispatch`: packets find their Service by the long chains that kube-proxy writes (`flat`), by trees of short
        ones (`tree`), or by trees once there are many rules (`auto`); `balance`: the same for the choice between a
        Service's endpoints, `auto` by their number in each Service; `first_services` (`namespace/name`), with those
        labelled `k8s-app=kube-dns`, are written before all others at a large start over an empty kernel (none: no
        stages); `digest_key` (16 bytes) keys chain digests so that no tenant can aim for a collision."""

@final
class IngestReport:
    """What one batch did. Counts are of objects."""

    kind: Kind
    resource_version: str
    applied: int
    changed: int
    rejected: int
    in_sync: bool
    bookmark: bool
    error_code: int | None
    """The `code` of a watch ERROR frame: 410 means list again."""
    malformed: str | None
    """The first frame that is no watch event at all; the frames around it were applied."""

@final
class PayloadPieces:
    """A plan's text, about a MiB at a time. The rest is freed with the last piece."""

    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...

@final
class Transaction:
    """A batch of netlink requests for nf_tables that takes effect as a whole."""

    def payload(self) -> bytes:
        """One datagram. Each call copies it."""
    last: int
    """It took effect when the request with this number is acknowledged."""
    def describe(self, sequence: int, /) -> str | None:
        """The request with this number as iptables has it; None: the batch as a whole."""

@final
class Transactions:
    """A plan as netlink requests, made one transaction at a time. The text is freed once there are no more.

    Raises `NotUnderstood` for a line of which no request can be made: a fault of ours."""

    def __iter__(self) -> Iterator[Transaction]: ...
    def __next__(self) -> Transaction: ...

@final
class Plan:
    """Text for exactly the chains that differ from what was confirmed applied."""

    family: Family
    generation: int
    payload: bytes
    """iptables-restore input, for `--noflush`. Each access makes it anew: for tests and for `render`."""
    def take_payload(self) -> PayloadPieces:
        """The same, out of the plan: once, and then nobody holds it."""
    def take_transactions(self) -> Transactions:
        """The same for the nft backend without its tool; once, too."""
    netlink: bool
    """Cut for `take_transactions`; for the tool, its transactions may be too large."""
    payload_size: int
    """Bytes, also after the text was taken."""
    chains_written: tuple[str, ...]
    """`table CHAIN`, sorted. Made at each access: hundreds of thousands at a large start."""
    chains_deleted: tuple[str, ...]
    written_count: int
    """How many these are."""
    deleted_count: int
    entry_jumps_inserted: tuple[str, ...]
    """Jump rules put (back) into built-in chains, as `table rule`."""
    rules_written: int
    rules_by_table: tuple[int, int, int]
    """Of them in filter, nat, mangle."""
    blocks: int
    """Transactions that the payload is cut into."""
    strategy: str
    """Why it is cut so."""
    phases: tuple[tuple[str, int, int, int, int], ...]
    """What it consists of, in order: `table part`, blocks, chains declared, rules, bytes."""
    full: bool
    """Every owned chain is in it (a first start on an empty kernel), or was in the first stage before it."""
    more: bool
    """A first stage: plan again at once after its commit; nothing is synced before."""

@final
class DriftReport:
    """The kernel's own chains against what we believed to be applied."""

    differing: tuple[str, ...]
    """Owned chains whose rules are not the ones we had applied (`table CHAIN`)."""
    missing: tuple[str, ...]
    stale: tuple[str, ...]
    """Chains with one of our prefixes that no Service needs; the next plan deletes them."""
    held: tuple[str, ...]
    """Stale chains that a foreign rule references: the kernel would refuse to delete them, so the next plan empties
    them."""
    entry_jumps_missing: tuple[str, ...]
    repaired: int
    """How many are differing, missing, or hooks missing: the next plan writes them again."""
    def first_repaired(self, limit: int, /) -> tuple[str, ...]:
        """At most so many of them, in this order. After a flush of 30,000 Services all of them are 150,000."""

@final
class Problem:
    """One standing complaint about cluster input; it goes away when the object is mended or deleted."""

    kind: Literal["rejected", "ignored", "conflict"]
    """rejected: the object kept its previous state; ignored: one element is left out; conflict: another object won."""
    object: str
    field: str
    value: str
    reason: str

@final
class HealthCheck:
    """A Service's healthCheckNodePort and what its listener must answer in one family."""

    namespace: str
    name: str
    family: Family
    port: int
    local_endpoints: int

@final
class FamilyFacts:
    """Numbers of one family as of its last plan."""

    service_ports: int
    endpoints: int
    large_mode: bool
    rules: tuple[int, int, int]
    """Desired rules in filter, nat, mangle."""
    no_local_internal: int
    """Ports with internalTrafficPolicy Local that have endpoints, but none on this node."""
    no_local_external: int
    node_port_addresses: int | None
    """How many of the host's addresses nodePortAddresses selects; None where it does not restrict the family, and
    before the first plan."""
    held: list[tuple[str, str]]
    """Stale chains (`table CHAIN`) that are emptied but cannot be deleted, each with the foreign chain whose rule
    references it."""

@final
class StaleFlows:
    """What one datagram of a conntrack dump held."""

    deletes: bytes
    """Requests to send as one datagram, numbered from 1. Only the last always answers; the others, if they fail."""
    count: int
    """How many requests that is."""
    seen: int
    """Entries looked at."""
    done: bool
    """The dump ends here."""
    interrupted: bool
    """The kernel says that entries may be missing (NLM_F_DUMP_INTR)."""
    error: int | None
    """errno of a refused dump."""

@final
class ConntrackView:
    """One family's UDP frontends as of a confirmed plan. Immutable; any thread may use it while the engine works."""

    family: Family
    frontends: int
    """With 0, no flow can be stale."""
    def inheriting(self, older: ConntrackView, /) -> ConntrackView:
        """This view, doing the work of an older one that was not carried out, too."""
    def dump_request(self, *, filtered: bool) -> bytes:
        """The request for a dump of the family's flows: of UDP only if `filtered`, which Linux before 5.8 ignores or
        refuses with EINVAL or EOPNOTSUPP."""
    def stale(self, dump: bytes, /) -> StaleFlows:
        """Judge one datagram of a ctnetlink dump. Takes any bytes; O(entries); releases the GIL."""

@final
class RuleReader:
    """Reads one family's rules over nf_tables netlink. A conversation without the socket: send what `begin` gives, feed
    every datagram that comes, send what that gives. Any one thread may drive it while the engine works."""

    family: Family
    def begin(self) -> bytes:
        """Forget everything; the first request."""
    def feed(self, datagram: bytes, /) -> bytes | None:
        """None: more of this answer is to come. Empty: everything is read. Else the next request. Takes any bytes;
        raises `RulesChanged`, `NotUnderstood`, or `OSError` where the kernel refused; then it must begin again."""

@final
class Engine:
    """Desired state from objects, applied state from confirmed plans, observed state from the kernel's own words."""

    def __new__(cls, options: EngineOptions, /) -> Engine: ...
    def replace(self, kind: Kind, pages: Sequence[bytes], /) -> IngestReport:
        """Swap in a whole list: each page is a `List` response or a JSON array. Objects that are not in it are gone."""
    def begin_list(self, kind: Kind, /) -> None:
        """A `List` response begins to arrive; one that was arriving is forgotten."""
    def feed_list(self, kind: Kind, chunk: bytes, /) -> None:
        """More of its text, cut anywhere; decoded at once, in force only after `end_list`. Raises `InputError`; the
        list is forgotten then, and nothing has changed."""
    def end_list(self, kind: Kind, /) -> IngestReport:
        """Swap the list in whole. Raises `InputError` if its text is incomplete; nothing has changed then."""
    def abort_list(self, kind: Kind, /) -> None:
        """The rest will not come."""
    def ingest(self, kind: Kind, frames: bytes, /) -> IngestReport:
        """Apply newline-delimited watch frames."""
    def set_local_addresses(self, addresses: Sequence[str], /) -> bool:
        """The host's own addresses, both families; true if node ports are affected."""
    def plan(self, family: Family, /, *, netlink: bool = False) -> Plan | None:
        """None: the kernel already has everything. `netlink`: cut for the kernel alone. Raises `NotReady`. Ends with
        `commit` or `abandon`."""
    def commit(self, plan: Plan, /) -> None:
        """The restore exited 0: its chains are applied now."""
    def abandon(self, plan: Plan, /) -> None:
        """Outcome unknown: its chains are written again by the next plan unless `observe` finds them right."""
    def observe(self, family: Family, seen: bytes | RuleReader, /) -> DriftReport:
        """Take `iptables-save` output (all tables), or what a reader has read to its end, for the applied state."""
    def rule_reader(self, family: Family, /) -> RuleReader:
        """For `observe`, on the nft backend."""
    def conntrack_view(self, family: Family, /) -> ConntrackView | None:
        """After a sync: None when no UDP frontend or endpoint changed since the last view, or while a plan's outcome is
        unknown. The first one after the first plan is always there."""
    def problems(self) -> list[Problem]:
        """Everything that is wrong with the objects now, sorted; small."""
    def health_checks(self) -> list[HealthCheck]:
        """One for each family that a Service with a healthCheckNodePort has a cluster IP in."""
    def counts(self) -> tuple[int, int]:
        """Services and EndpointSlices in the store."""
    def facts(self, family: Family, /) -> FamilyFacts: ...
    def take_change_triggers(self) -> list[str]:
        """RFC 3339 times at which endpoint changes happened that watches brought since the last call."""
    def localhost_node_ports(self) -> bool:
        """Whether rules for 127.0.0.0/8 node ports are in force, and so whether route_localnet is needed."""
    def snapshot(self) -> bytes:
        """JSON for humans: counts, synced kinds, chains by state. Not an interface."""

@final
class AddressDump:
    """Reads the host's own addresses over rtnetlink: send `request`, feed every datagram until it returns true."""

    def __new__(cls) -> AddressDump: ...
    def request(self) -> bytes: ...
    def feed(self, datagram: bytes, /) -> bool:
        """Whether this was the last datagram. Takes any bytes; raises `OSError` where the kernel refused."""
    def addresses(self) -> list[str]:
        """What was read so far: IPv4 first, in ascending order. IPv6 link-local addresses have no zone."""

def acknowledgements(datagram: bytes, /) -> list[tuple[int, int]]:
    """`(sequence, errno)` of each acknowledgement in a netlink datagram; errno 0: the request worked."""

def counter_creation(name: str, /) -> bytes:
    """The request that makes a named packet counter, number 1. Its acknowledgement is EEXIST where there is one."""

def counter_request(name: str, /) -> bytes:
    """The request for what a named packet counter has seen."""

def counter_values(answer: bytes, /) -> tuple[int, int] | None:
    """Packets and bytes in the answer to `counter_request`; None for a refusal."""

@final
class Removal:
    """What one table holds of ferrule's and kube-proxy's."""

    table: str
    chains: int
    """How many the payload deletes."""
    jumps: int
    """Rules in base chains that it deletes."""
    held: tuple[tuple[str, str], ...]
    """Chains that it empties and cannot delete, each with a foreign rule that references it as `-A CHAIN …`."""
    def payload(self) -> bytes:
        """Restore text of one transaction. Empty: there is nothing to remove. Releases the GIL."""

def removals(saved: bytes, /) -> list[Removal]:
    """What to remove from each table that `iptables-save` printed. Takes any bytes; releases the GIL."""

def build_info() -> dict[str, str]:
    """`version`, `profile` (release or debug), `target`, `rustc`."""
