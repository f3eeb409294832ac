"""Open files of the process: raises their limit, and derives how many of them clients may take."""

from __future__ import annotations

import logging
import resource

from ferrule.errors import InputError
from ferrule.observe.logs import kv

log = logging.getLogger(__name__)

WANTED = 65_536
"""What the soft limit is raised to, where the hard limit allows it. Hundreds of health check node ports take one file
per address, and each of their clients takes one."""

NEEDED = 64
"""Fewer cannot serve: event loop, API connections, netlink sockets and a running tool take up to 40."""

RESERVE = 128
"""Files that clients never take: for the above, and for listening sockets."""


def raise_limit() -> None:
    """Raises the soft limit of open files as far as `WANTED`. Raises `InputError` where it is too low to work."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        log.debug("Limit of open files raised", extra=kv(before=soft, now=wanted))
    if limit() < NEEDED:
        raise InputError(
            f"at most {limit()} open files are allowed (RLIMIT_NOFILE), {NEEDED} are needed: raise LimitNOFILE in the "
            "unit, or `ulimit -n`"
        )


def limit() -> int:
    """Returns the soft limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def client_share(share: float, most: int) -> int:
    """Returns how many connections a group of listeners may hold: its share of what the limit leaves after the reserve,
    at least 4 and at most `most`."""
    return max(4, min(most, int((limit() - RESERVE) * share)))
