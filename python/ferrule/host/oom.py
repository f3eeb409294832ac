"""Sets the OOM score of this process.

Lowering the score needs CAP_SYS_RESOURCE, which is too much for this purpose: kubelet assigns -997 to a Pod of class
system-node-critical, and systemd's OOMScoreAdjust= sets it before the process starts. A refusal is therefore reported
and ignored, as in kube-proxy.
"""

from __future__ import annotations

from pathlib import Path

from ferrule.host.sysctl import read_number, write_number

SCORE = "proc/self/oom_score_adj"


def set_score(value: int, root: Path = Path("/")) -> str | None:
    """Sets the score. Returns None on success; otherwise one sentence with the reason. Never raises."""
    path = root / SCORE
    current = read_number(path)
    if current == value:
        return None
    return write_number(path, "oom_score_adj of this process", current, value)
