"""Named packet counters of the kernel (nfnetlink_acct), over netlink, without a tool.

A rule may refer only to an existing counter, so `ensure` is called before rules are written. On a kernel without nfacct
the same rules are written without the match.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from ferrule._engine import counter_creation, counter_request, counter_values
from ferrule.dataplane.netlink import NETLINK_NETFILTER, answer, carry_out

INVALID_DROPPED = "ct_state_invalid_dropped_pkts"
LOCALHOST_ACCEPTED = "localhost_nps_accepted_pkts"

_UNSUPPORTED = {errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOENT, errno.EAFNOSUPPORT}


class Outcome(enum.Enum):
    """The result of a probe. UNKNOWN must not be treated as a permanent "no"."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"


@dataclass(frozen=True, slots=True)
class Count:
    """The packets and bytes that a counter has counted since its creation."""

    packets: int
    octets: int


def ensure(name: str) -> Outcome:
    """Creates the counter if it is missing, in the calling thread's network namespace."""
    try:
        carry_out(NETLINK_NETFILTER, counter_creation(name))
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.EBUSY):
            return Outcome.YES
        return Outcome.NO if error.errno in _UNSUPPORTED else Outcome.UNKNOWN
    return Outcome.YES


def read(name: str) -> Count | None:
    """Returns the counter's value; None if it is missing or unreadable."""
    try:
        values = counter_values(answer(NETLINK_NETFILTER, counter_request(name)))
    except OSError:
        return None
    return None if values is None else Count(*values)
