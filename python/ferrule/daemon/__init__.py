"""`ferrule run`: puts the parts together, starts the tasks, ends them.

`options` what was asked for · `lifetime` start, signals, exit codes · `composition` which parts there are ·
`supervision` endless tasks · `after_sync` what a sync means to the other parts · `upkeep` drift, memory, the
configuration file · `other_backend` the rules of the backend that is not in use · `endpoints` what is served over HTTP.
"""

from ferrule.daemon.lifetime import run
from ferrule.daemon.options import DaemonOptions, node_name

__all__ = ["DaemonOptions", "node_name", "run"]
