"""Our place in the queue when the node runs out of memory.

Lowering the score needs CAP_SYS_RESOURCE, which is too much to ask for this: kubelet gives a Pod of class
system-node-critical -997 by itself, and systemd's OOMScoreAdjust= sets it before we start. So a refusal is told and
costs nothing, as with kube-proxy.
"""

from __future__ import annotations

from pathlib import Path

from ferrule.host.sysctl import read_number, write_number

SCORE = "proc/self/oom_score_adj"


def set_score(value: int, root: Path = Path("/")) -> str | None:
    """None: this process has that score now; else one sentence saying why not. Never raises."""
    path = root / SCORE
    current = read_number(path)
    if current == value:
        return None
    return write_number(path, "oom_score_adj of this process", current, value)
