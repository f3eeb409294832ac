"""`ferrule run`: composes the parts, starts the tasks, ends them.

`options` settings and paths · `lifetime` start, signals, exit codes · `composition` the parts · `supervision` permanent
tasks · `after_sync` effects of a sync on the other parts · `upkeep` drift, memory, the configuration file ·
`other_backend` rules of the unused backend · `endpoints` HTTP.
"""

from ferrule.daemon.lifetime import run
from ferrule.daemon.options import DaemonOptions, node_name

__all__ = ["DaemonOptions", "node_name", "run"]
