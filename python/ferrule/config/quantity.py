"""Parses quantities in Kubernetes' format: `512`, `4Mi`, `1.5k`, `1e3`."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(n|u|m|k|[KMGTPE]i|[MGTPE]|[eE][+-]?\d{1,3})?", re.ASCII)
_SMALL = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(1000)}
_LARGE = "KMGTPE"


def parse_quantity(text: str) -> int:
    """Returns the quantity, rounded up to a whole number, as everywhere in Kubernetes. Raises `ValueError`."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("must be a number with an optional suffix such as k, M, Ki or Mi")
    number, suffix = Decimal(match[1]), match[2]
    if suffix is None:
        factor = Decimal(1)
    elif suffix in _SMALL:
        factor = _SMALL[suffix]
    elif suffix.endswith("i"):
        factor = Decimal(1024) ** (_LARGE.index(suffix[0]) + 1)
    elif suffix in _LARGE:
        factor = Decimal(1000) ** (_LARGE.index(suffix) + 1)
    else:
        factor = Decimal(f"1{suffix}")
    return int((number * factor).to_integral_value(ROUND_CEILING))
