"""`ferrule run`: puts the parts together, starts the tasks, ends them.

`options` what was asked for · `after_sync` what a sync means to everyone else · `endpoints` what is served over HTTP ·
`lifetime` tasks, signals, exit codes.
"""

from ferrule.daemon.lifetime import run
from ferrule.daemon.options import DaemonOptions, node_name

__all__ = ["DaemonOptions", "node_name", "run"]
