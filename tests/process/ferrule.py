"""What tests of the running program share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ferrule.testing.daemon import command
from ferrule.testing.netns import NetNs


def write(folder: Path, name: str, objects: Sequence[dict[str, Any]]) -> Path:
    """Put a file of manifests into the folder in one step."""
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{name}.new"
    fresh.write_text("\n---\n".join(json.dumps(o) for o in objects))
    return fresh.rename(folder / name)


def once(netns: NetNs, manifests: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    """`ferrule run --once`."""
    return netns.run(*command(manifests, "--once", *extra), check=False)


def rules(netns: NetNs, backend: str, family: str = "iptables") -> str:
    """What the kernel holds."""
    return netns.run(f"{family}-{backend}-save").stdout
