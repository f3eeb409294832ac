"""Named packet counters of the kernel (nfnetlink_acct), over netlink: no tool is needed, and none is run.

A rule may only refer to a counter that exists, so whoever writes rules asks `ensure` first. A kernel without nfacct is
normal: the same rules are then written without the match.
"""

from __future__ import annotations

import enum
import errno
import struct
from dataclasses import dataclass

from ferrule.dataplane.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, attribute, attributes, request

INVALID_DROPPED = "ct_state_invalid_dropped_pkts"
LOCALHOST_ACCEPTED = "localhost_nps_accepted_pkts"

NETLINK_NETFILTER = 12
NFNL_SUBSYS_ACCT = 7
NFNL_MSG_ACCT_NEW = 0
NFNL_MSG_ACCT_GET = 1
NFACCT_NAME = 1
NFACCT_PKTS = 2
NFACCT_BYTES = 3

_NFGENMSG = struct.pack("=BBH", 0, 0, 0)
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


def _message(kind: int, flags: int, name: str) -> list[tuple[int, bytes]]:
    body = _NFGENMSG + attribute(NFACCT_NAME, name.encode() + b"\0")
    return list(request(NETLINK_NETFILTER, NFNL_SUBSYS_ACCT << 8 | kind, flags, body))


def ensure(name: str) -> Outcome:
    """Create the counter unless it is there. Works on the calling thread's network namespace."""
    try:
        _message(NFNL_MSG_ACCT_NEW, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, name)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.EBUSY):
            return Outcome.YES
        return Outcome.NO if error.errno in _UNSUPPORTED else Outcome.UNKNOWN
    return Outcome.YES


def read(name: str) -> Count | None:
    """What it counts now; None when it is not there or cannot be read."""
    try:
        answers = _message(NFNL_MSG_ACCT_GET, 0, name)
    except OSError:
        return None
    for _, answer in answers:
        found = dict(attributes(answer[len(_NFGENMSG) :]))
        if NFACCT_PKTS in found and NFACCT_BYTES in found:
            (packets,) = struct.unpack(">Q", found[NFACCT_PKTS])
            (octets,) = struct.unpack(">Q", found[NFACCT_BYTES])
            return Count(packets, octets)
    return None
