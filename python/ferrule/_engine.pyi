"""The Rust sync engine: decodes cluster objects, computes rules, and tracks desired, applied and observed state.

A few coarse calls take and return bytes, without a Python value per object. A call whose work grows with the cluster
releases the GIL for that work; only the Python values of its result are made with the GIL held. They have one owner and
never run in two threads at once (`sync/loop.py`).
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, final

from ferrule.types import Family, Kind

__all__ = [
    "CANARY_CHAIN",
    "SERVICES_CHAIN",
    "AddressDump",
    "ConntrackView",
    "CutShort",
    "DriftReport",
    "Engine",
    "EngineOptions",
    "FamilyFacts",
    "HealthCheck",
    "IngestReport",
    "InputError",
    "Misuse",
    "NotBegun",
    "NotEncodable",
    "NotRead",
    "NotReady",
    "NotUnderstood",
    "OwnNode",
    "PayloadPieces",
    "Plan",
    "PlanInFlight",
    "Problem",
    "ProblemChanges",
    "Removal",
    "RuleReader",
    "RulesChanged",
    "StaleFlows",
    "StalePlan",
    "Transaction",
    "Transactions",
    "UnusableRules",
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

# Exceptions, by the party at fault.

class InputError(ValueError):
    """The input: an option or a whole batch is invalid. A single invalid object never raises: see
    `Engine.problems`."""

class Misuse(RuntimeError):
    """The caller: a call came out of order, or names a kind or family that does not exist."""

class NotReady(Misuse):
    """`plan` was called before every kind was listed, or before the kernel's state was observed."""

class PlanInFlight(Misuse):
    """`plan` was called before the previous plan of the family was committed or abandoned."""

class StalePlan(Misuse):
    """`commit` or `abandon` was called with a plan that is not in flight, or a plan's text was requested after it was
    taken."""

class NotRead(Misuse):
    """`observe` was called with a reader that has not read all rules of the family."""

class NotBegun(Misuse):
    """`feed_list` or `end_list` was called for a list that was not begun, or that `replace` or `ingest` discarded."""

class UnusableRules(Exception):
    """The kernel's rules, or what a tool printed of them."""

class NotUnderstood(UnusableRules):
    """A rule has a form that only the iptables tools may understand; the message says where and what."""

class RulesChanged(UnusableRules):
    """The rules changed during the read: start again."""

class CutShort(UnusableRules):
    """The output of `iptables-save` is cut short."""

class NotEncodable(RuntimeError):
    """The engine: a line of its own plan cannot be encoded as a netlink request."""

@final
class EngineOptions:
    """Options: what the rules depend on besides cluster objects. Immutable; invalid values raise `InputError`."""

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
        """Builds and validates options. `node_ips` are used while the Node object has no addresses (at most one per
        family); `node_port_addresses` are CIDRs and the words `primary`, `localhost`, `all`, empty for all
        addresses; `local_interface` is the bridge name or the prefix of its mode; without `external_ips`, Services'
        externalIPs are ignored; `ordered_blocks` splits large writes into transactions (for the nft tool, which
        takes time quadratic in the size of one); `dispatch` is the layout of dispatch chains: the long chains that
        kube-proxy writes (`flat`), trees of short ones (`tree`), or trees above a number of rules (`auto`);
        `balance` is the layout of balancing chains, where `auto` depends on the endpoints of each Service;
        `first_services` (`namespace/name`) and those labelled `k8s-app=kube-dns` are written first at a large start
        over an empty kernel (without any there are no stages); `digest_key` (16 bytes) keys chain digests so that a
        tenant cannot construct collisions."""

@final
class IngestReport:
    """The effect of one batch. Counts are of objects."""

    kind: Kind
    resource_version: str
    applied: int
    changed: int
    rejected: int
    in_sync: bool
    bookmark: bool
    error_code: int | None
    """The `code` of a watch ERROR frame; 410 requires a relist."""
    malformed: str | None
    """The first frame that is not a watch event; the other frames were applied."""

@final
class PayloadPieces:
    """A plan's text in pieces of about one MiB. The rest is freed with the last piece."""

    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...

@final
class Transaction:
    """A batch of nf_tables requests: one atomic transaction."""

    def payload(self) -> bytes:
        """Returns the transaction as one datagram, copied by each call."""
    last: int
    """The sequence number whose acknowledgement confirms the transaction."""
    def describe(self, sequence: int, /) -> str | None:
        """Returns the request with this sequence number in iptables syntax; None for the batch as a whole."""

@final
class Transactions:
    """A plan as netlink requests, encoded one transaction at a time. The text is freed after the last one.

    Raises `NotEncodable` for a line that cannot be encoded."""

    def __iter__(self) -> Iterator[Transaction]: ...
    def __next__(self) -> Transaction: ...

@final
class Plan:
    """A plan: restore text for exactly the chains that differ from the applied state."""

    family: Family
    generation: int
    payload: bytes
    """Input of `iptables-restore --noflush`. Each access serialises it again: for tests and for `render`."""
    def take_payload(self) -> PayloadPieces:
        """Takes the text out of the plan, once."""
    def take_transactions(self) -> Transactions:
        """Takes the text as netlink requests for the nft backend, once."""
    netlink: bool
    """Whether the text is split for `take_transactions`; its transactions may be too large for the tool."""
    payload_size: int
    """Size of the text in bytes, available after it was taken."""
    chains_written: tuple[str, ...]
    """`table CHAIN`, sorted. Built at each access: hundreds of thousands at a large start."""
    chains_deleted: tuple[str, ...]
    written_count: int
    """Number of chains written."""
    deleted_count: int
    entry_jumps_inserted: tuple[str, ...]
    """Entry jumps inserted into base chains, as `table rule`."""
    rules_written: int
    rules_by_table: tuple[int, int, int]
    """Rules written in filter, nat, mangle."""
    blocks: int
    """Number of transactions in the payload."""
    strategy: str
    """Why the payload is split as it is."""
    phases: tuple[tuple[str, int, int, int, int], ...]
    """Summary of the payload, in order: `table part`, blocks, chains declared, rules, bytes."""
    full: bool
    """Whether the plan contains every chain (a first start on an empty kernel), possibly with the first stage before
    it."""
    more: bool
    """Whether the plan is a first stage: plan again immediately after its commit; the sync is complete only then."""

@final
class DriftReport:
    """The difference between the kernel's chains and the applied state."""

    differing: tuple[str, ...]
    """Chains of ferrule whose rules differ from the applied ones (`table CHAIN`)."""
    missing: tuple[str, ...]
    stale: tuple[str, ...]
    """Chains with one of ferrule's prefixes that no Service needs; the next plan deletes them."""
    held: tuple[str, ...]
    """Stale chains that a foreign rule references: the kernel would refuse to delete them, so the next plan empties
    them."""
    entry_jumps_missing: tuple[str, ...]
    repaired: int
    """Number of differing or missing chains and missing entry jumps: the next plan writes them again."""
    def first_repaired(self, limit: int, /) -> tuple[str, ...]:
        """Returns at most `limit` of them, in this order. After a flush of 30,000 Services there are 150,000."""

@final
class Problem:
    """A problem of a cluster object. It disappears when the object is corrected or deleted."""

    kind: Literal["rejected", "ignored", "conflict"]
    """rejected: the object keeps its previous state; ignored: one element is ignored; conflict: another object owns
    the address."""
    object: str
    field: str
    value: str
    reason: str

@final
class ProblemChanges:
    """The changes of `Engine.problems` between two calls. The lists are sorted, and made at each access."""

    appeared: list[Problem]
    gone: list[Problem]
    standing: int
    """Number of current problems."""

@final
class OwnNode:
    """The node's own Node object, as far as this process depends on it. Compared by value."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    __hash__: ClassVar[None]  # type: ignore[assignment]
    node_ips: tuple[str, ...]
    """At most one of each family, the primary family first: InternalIPs before ExternalIPs, and of each the first, as
    kube-proxy takes them."""
    addresses: tuple[str, ...]
    """Every InternalIP, then every ExternalIP."""
    pod_cidrs: tuple[str, ...]
    """The first of each family, IPv4 first, in canonical form."""
    eligible: bool
    """Whether load balancers should use this node: it has neither a deletionTimestamp nor the taint that the cluster
    autoscaler sets before it removes a node."""

@final
class HealthCheck:
    """A Service's healthCheckNodePort and the response of its listener in one family."""

    namespace: str
    name: str
    family: Family
    port: int
    local_endpoints: int

@final
class FamilyFacts:
    """Counts of one family as of its last plan."""

    service_ports: int
    endpoints: int
    large_mode: bool
    rules: tuple[int, int, int]
    """Number of desired rules in filter, nat, mangle."""
    no_local_internal: int
    """Number of ports with internalTrafficPolicy Local whose endpoints are all on other nodes."""
    no_local_external: int
    node_port_addresses: int | None
    """How many of the host's addresses nodePortAddresses selects; None where it does not restrict the family, and
    before the first plan."""
    held: list[tuple[str, str]]
    """Stale chains (`table CHAIN`) that are emptied but cannot be deleted, each with the foreign chain whose rule
    references it."""

@final
class StaleFlows:
    """The stale flows in one datagram of a conntrack dump."""

    deletes: bytes
    """Delete requests to send as one datagram, numbered from 1. The last one is always acknowledged, the others only
    if they fail."""
    count: int
    """Number of delete requests."""
    seen: int
    """Number of entries examined."""
    done: bool
    """Whether the dump ends here."""
    interrupted: bool
    """Whether the kernel reports that entries may be missing (NLM_F_DUMP_INTR)."""
    error: int | None
    """The errno of a refused dump."""

@final
class ConntrackView:
    """One family's UDP frontends as of a confirmed plan. Immutable; any thread may use it while the engine works."""

    family: Family
    frontends: int
    """Number of frontends. With 0, no flow can be stale."""
    def inheriting(self, older: ConntrackView, /) -> ConntrackView:
        """Returns this view, extended by the work of an older view that was not carried out."""
    def dump_request(self, *, filtered: bool) -> bytes:
        """Returns the request for a dump of the family's flows; with `filtered` of UDP only, which Linux before 5.8
        ignores or refuses with EINVAL or EOPNOTSUPP."""
    def stale(self, dump: bytes, /) -> StaleFlows:
        """Finds the stale flows in one datagram of a ctnetlink dump. Accepts any bytes; O(entries); releases the
        GIL."""

@final
class RuleReader:
    """Reads one family's rules over nf_tables netlink, without owning the socket: send the result of `begin`, pass
    every received datagram to `feed`, send its result. Any one thread may drive it while the engine works."""

    family: Family
    def begin(self) -> bytes:
        """Resets the reader. Returns the first request."""
    def feed(self, datagram: bytes, /) -> bytes | None:
        """Returns None while the response continues, an empty request after the last one, otherwise the next
        request. Accepts any bytes; raises `RulesChanged`, `NotUnderstood`, or `OSError` where the kernel refused;
        the caller then starts with `begin`."""

@final
class Engine:
    """The state of the cluster and of the rules: desired from objects, applied from confirmed plans, observed from
    the kernel."""

    def __new__(cls, options: EngineOptions, /) -> Engine: ...
    def replace(self, kind: Kind, pages: Sequence[bytes], /) -> IngestReport:
        """Replaces all objects of a kind: each page is a `List` response or a JSON array. Objects that are not
        listed are removed."""
    def begin_list(self, kind: Kind, /) -> None:
        """Begins to receive a `List` response, and discards one that was being received."""
    def feed_list(self, kind: Kind, chunk: bytes, /) -> None:
        """Adds a chunk of the list, split anywhere. It is decoded immediately and takes effect with `end_list`.
        Raises `InputError`; the list is then discarded and nothing changes."""
    def end_list(self, kind: Kind, /) -> IngestReport:
        """Applies the complete list. Raises `InputError` if its text is incomplete; nothing changes then."""
    def abort_list(self, kind: Kind, /) -> None:
        """Discards the list that is being received."""
    def ingest(self, kind: Kind, frames: bytes, /) -> IngestReport:
        """Applies newline-delimited watch frames."""
    def set_local_addresses(self, addresses: Sequence[str], /) -> bool:
        """Sets the host's own addresses of both families. Returns whether node ports are affected."""
    def plan(self, family: Family, /, *, netlink: bool = False) -> Plan | None:
        """Plans the next write; None if the kernel needs no change. `netlink` splits it for netlink. Raises
        `NotReady` or `PlanInFlight`. The plan ends with `commit` or `abandon`."""
    def commit(self, plan: Plan, /) -> None:
        """Reports success: the plan's chains become the applied state."""
    def abandon(self, plan: Plan, /) -> None:
        """Reports an unknown outcome: the next plan writes the chains again unless `observe` finds them correct."""
    def observe(self, family: Family, seen: bytes | RuleReader, /) -> DriftReport:
        """Replaces the applied state by `iptables-save` output (all tables), or by the result of a complete reader."""
    def rule_reader(self, family: Family, /) -> RuleReader:
        """Returns a reader for `observe` on the nft backend."""
    def conntrack_view(self, family: Family, /) -> ConntrackView | None:
        """Returns the UDP frontends after a sync; None if no frontend or endpoint changed since the last view, or
        while a plan's outcome is unknown. The first call after the first plan always returns a view."""
    def problems(self) -> list[Problem]:
        """Returns all current problems, sorted. The cost is proportional to their number; after a sync, use
        `take_problem_changes`."""
    def take_problem_changes(self) -> ProblemChanges:
        """Returns the changes of `problems` since the last call. The cost is proportional to the changes."""
    def health_checks(self) -> list[HealthCheck]:
        """Returns one for each family in which a Service with a healthCheckNodePort has a cluster IP."""
    def own_node(self) -> OwnNode | None:
        """Returns the Node called `node_name` as of what was ingested. None: there is none. Changes of it that rules do
        not depend on are not counted in `IngestReport.changed`."""
    def counts(self) -> tuple[int, int]:
        """Returns the numbers of Services and EndpointSlices in the store."""
    def facts(self, family: Family, /) -> FamilyFacts: ...
    def take_change_triggers(self) -> list[str]:
        """Takes the RFC 3339 times of endpoint changes that watches delivered since the last call."""
    def localhost_node_ports(self) -> bool:
        """Returns whether rules for node ports on 127.0.0.0/8 exist, which need route_localnet."""
    def snapshot(self) -> bytes:
        """Returns JSON for debugging: counts, listed kinds, chains by state. Not a stable interface."""

@final
class AddressDump:
    """Reads the host's own addresses over rtnetlink: send `request`, pass every datagram to `feed` until it returns
    true."""

    def __new__(cls) -> AddressDump: ...
    def request(self) -> bytes: ...
    def feed(self, datagram: bytes, /) -> bool:
        """Reads one datagram. Returns whether it was the last one. Accepts any bytes; raises `OSError` if the kernel
        refused."""
    def addresses(self) -> list[str]:
        """Returns the addresses read so far: IPv4 first, in ascending order. IPv6 link-local addresses have no zone."""

def acknowledgements(datagram: bytes, /) -> list[tuple[int, int]]:
    """Returns `(sequence, errno)` of each acknowledgement in a netlink datagram; errno 0 means success."""

def counter_creation(name: str, /) -> bytes:
    """Returns the request that creates a named packet counter, number 1. Its acknowledgement is EEXIST if the
    counter exists."""

def counter_request(name: str, /) -> bytes:
    """Returns the request for the value of a named packet counter."""

def counter_values(answer: bytes, /) -> tuple[int, int] | None:
    """Returns packets and bytes of the response to `counter_request`; None for a refusal."""

@final
class Removal:
    """The removal of the rules of ferrule and kube-proxy from one table."""

    table: str
    chains: int
    """Number of chains that the payload deletes."""
    jumps: int
    """Number of entry jumps that it deletes."""
    held: tuple[tuple[str, str], ...]
    """Chains that it empties and cannot delete, each with a foreign rule that references it as `-A CHAIN …`."""
    def payload(self) -> bytes:
        """Returns the restore text of one transaction; empty if there is nothing to remove. Releases the GIL."""

def removals(saved: bytes, /) -> list[Removal]:
    """Returns the removal for each table in the output of `iptables-save`. Accepts any bytes; releases the GIL."""

def build_info() -> dict[str, str]:
    """Returns `version`, `profile` (release or debug), `target`, `rustc`."""
