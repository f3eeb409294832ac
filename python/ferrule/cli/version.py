"""What this build calls itself."""

from __future__ import annotations

from ferrule._engine import build_info


def version(*, whole: bool = True) -> str:
    """`ferrule 0.1.0`, and with `whole` how it was built."""
    info = build_info()
    short = f"ferrule {info['version']}"
    return f"{short} ({info['profile']}, {info['target']}, {info['rustc']})" if whole else short
