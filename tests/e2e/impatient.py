"""`ferrule` with time-outs of seconds instead of minutes, so that cases can observe silence; otherwise the same
program.

Run as a script. It replaces the values that the daemon leaves to the defaults of its classes.
"""

from __future__ import annotations

import sys
from functools import partial

from ferrule.cli import main
from ferrule.source import cluster
from ferrule.source.api import reflector
from ferrule.source.api.client import ApiClient, Timeouts
from ferrule.source.api.follow import Follower

WATCH_SECONDS = (4, 5)
IDLE_MARGIN = 2.0
TIMEOUTS = Timeouts(connect=2.0, headers=3.0, idle=3.0)
NODE_SECONDS = 4.0

if __name__ == "__main__":
    reflector.WATCH_SECONDS = WATCH_SECONDS
    vars(cluster).update(
        NODE_SECONDS=NODE_SECONDS,
        Follower=partial(Follower, idle_margin=IDLE_MARGIN),
        ApiClient=partial(ApiClient, timeouts=TIMEOUTS),
    )
    sys.exit(main())
