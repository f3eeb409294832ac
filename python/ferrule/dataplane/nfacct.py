"""Named packet counters of the kernel (nfnetlink_acct), over netlink: no tool is needed, and none is run.

A rule may only refer to a counter that exists, so whoever writes rules asks `ensure` first. A kernel without nfacct is
normal: the same rules are then written without the match.
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
    """A probe's answer; "could not tell" must not be taken for "no" for ever."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"


@dataclass(frozen=True, slots=True)
class Count:
    """What a counter has seen since it was made."""

    packets: int
    octets: int


def ensure(name: str) -> Outcome:
    """Create the counter unless it is there. Works on the calling thread's network namespace."""
    try:
        carry_out(NETLINK_NETFILTER, counter_creation(name))
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.EBUSY):
            return Outcome.YES
        return Outcome.NO if error.errno in _UNSUPPORTED else Outcome.UNKNOWN
    return Outcome.YES


def read(name: str) -> Count | None:
    """What it counts now; None when it is not there or cannot be read."""
    try:
        values = counter_values(answer(NETLINK_NETFILTER, counter_request(name)))
    except OSError:
        return None
    return None if values is None else Count(*values)
