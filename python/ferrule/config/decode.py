"""Decodes a parsed document into `Settings`, guided by the dataclasses; collects every fault with its path.

Unknown fields are faults when strict and warnings when not; a value of the wrong type is always a fault.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from ferrule.config.duration import parse_duration
from ferrule.config.quantity import parse_quantity
from ferrule.config.schema import API_NAMES, FlushSeconds, Quantity, Seconds, Settings, UInt

INT32 = range(-(2**31), 2**31)
UINT31 = range(2**31)


def api_name(field: str) -> str:
    """`min_sync_period` → `minSyncPeriod`."""
    head, *rest = field.split("_")
    return API_NAMES.get(field) or head + "".join(part.capitalize() for part in rest)


@dataclasses.dataclass(slots=True)
class Findings:
    """Faults and warnings, in the file's order."""

    faults: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)


def decode(document: Mapping[str, Any], findings: Findings, *, strict: bool) -> Settings:
    """Decodes a document. Fields with faults keep their defaults, so that validation can continue and find other
    faults."""
    body = {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}
    return typing.cast(Settings, _section(Settings, body, "", findings, strict))


def _section(cls: type[Any], mapping: Mapping[str, Any], path: str, findings: Findings, strict: bool) -> object:
    hints = typing.get_type_hints(cls)
    fields = {api_name(f.name): f for f in dataclasses.fields(cls)}
    values: dict[str, object] = {}
    for key, value in mapping.items():
        at = f"{path}.{key}" if path else str(key)
        known = fields.get(key)
        if known is None:
            (findings.faults if strict else findings.warnings).append(f"unknown field {at!r}")
        elif value is not None:  # null means "not set", as in every API object
            try:
                values[known.name] = _value(hints[known.name], value, at, findings, strict)
            except ValueError as error:
                findings.faults.append(f"{at}: Invalid value: {_show(value)}: {error}")
    return cls(**values)


def _value(hint: Any, value: object, path: str, findings: Findings, strict: bool) -> object:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ValueError("must be a section with fields")
        return _section(hint, value, path, findings, strict)
    if hint is FlushSeconds and isinstance(value, int) and not isinstance(value, bool):
        return FlushSeconds(value / 10**9)
    if hint in (Seconds, FlushSeconds):
        if not isinstance(value, str):
            raise ValueError("must be a duration such as 30s or 1m30s")
        return parse_duration(value)
    if hint is Quantity:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError("must be an amount such as 512 or 4Mi")
        parse_quantity(str(value))
        return Quantity(str(value))
    if hint is bool:
        return _typed(value, bool, "must be true or false")
    if hint in (int, UInt):
        return _whole(value, INT32 if hint is int else UINT31)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a number")
        return float(value)
    if hint is str:
        return _typed(value, str, "must be a string")
    origin = typing.get_origin(hint)
    if origin is tuple and dataclasses.is_dataclass(item := typing.get_args(hint)[0]):
        if not isinstance(value, list):
            raise ValueError("must be a list")
        return tuple(_value(item, entry, f"{path}[{i}]", findings, strict) for i, entry in enumerate(value))
    if origin is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError("must be a list of strings")
        return tuple(value)
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(item, bool) for item in value.values()):
            raise ValueError("must map names to true or false")
        return dict(value)
    raise AssertionError(f"{path}: no decoder for {hint}")


def _whole(value: object, allowed: range) -> int:
    # JSON decoders for integers reject a number such as 1.0.
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    if value not in allowed:
        raise ValueError(f"must be within the range [{allowed.start}, {allowed.stop - 1}]")
    return value


def _typed(value: object, wanted: type, message: str) -> object:
    if not isinstance(value, wanted):
        raise ValueError(message)
    return value


def _show(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
