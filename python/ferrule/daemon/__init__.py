"""`ferrule run`: puts the parts together, starts the tasks, ends them.

`options` what was asked for · `host` what this machine has · `folder`, `cluster` where objects come from · `aftermath`
what a sync means to everyone else · `problems` complaints, said once · `lifetime` tasks, signals, exit codes.
"""

from ferrule.daemon.lifetime import run
from ferrule.daemon.options import DaemonOptions, node_name

__all__ = ["DaemonOptions", "node_name", "run"]
