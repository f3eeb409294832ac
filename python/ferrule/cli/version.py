"""The version of this build."""

from __future__ import annotations

from ferrule._engine import build_info


def version(*, whole: bool = True) -> str:
    """Returns `ferrule VERSION`, and with `whole` the details of the build."""
    info = build_info()
    short = f"ferrule {info['version']}"
    return f"{short} ({info['profile']}, {info['target']}, {info['rustc']})" if whole else short
