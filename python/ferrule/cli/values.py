"""The types of kube-proxy's flags, with Go's error messages. Pure.

The wording matters: a search for `strconv.ParseBool: parsing "yes": invalid syntax` finds an answer.
"""

from __future__ import annotations

import csv
import ipaddress
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ferrule.config.duration import format_duration, parse_duration, quote
from ferrule.config.quantity import parse_quantity
from ferrule.config.schema import VModule

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of flag. `parse` receives the text and the previous value, and raises `ValueError`."""

    name: str
    """The name in `--help`, as in kube-proxy's."""
    parse: Callable[[str, Any], Any]
    empty: Any
    """The zero value."""
    alone: str = ""
    """The value of the flag without an argument; "" if it requires one."""
    show: Callable[[Any], str] = str
    """Formats a value as text."""


def parse_bool(text: str) -> bool:
    """Parses Go's boolean values, which do not include yes and on."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def _int32(text: str, _: object) -> int:
    """Parses a number as Go does with base 0: 0x, 0b, 0o, a leading 0 for octal, underscores between digits."""
    try:
        if not text.isascii() or text != text.strip():
            raise ValueError
        value = int(text, 8 if re.fullmatch(r"[+-]?0[0-7_]+", text) else 0)
    except ValueError:
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax") from None
    if not -(2**31) <= value < 2**31:
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return value


def _level(text: str, _: object) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    if len(text.lstrip("0")) > 10 or int(text) >= 2**31:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return int(text)


def _float32(text: str, _: object) -> float:
    try:
        if "_" in text or text != text.strip():
            raise ValueError
        value = float(text)
    except ValueError:
        raise ValueError(f"strconv.ParseFloat: parsing {quote(text)}: invalid syntax") from None
    if not math.isfinite(value):
        raise ValueError(f"strconv.ParseFloat: parsing {quote(text)}: must be a finite number")
    try:
        struct.pack("<f", value)
    except OverflowError:
        raise ValueError(f"strconv.ParseFloat: parsing {quote(text)}: value out of range") from None
    return value


def _duration(text: str, _: object) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError(f"time: {error}") from None


def _strings(text: str, before: object) -> tuple[str, ...]:
    """Parses a line of comma-separated values; a repeated flag appends to its list."""
    try:
        rows = list(csv.reader([text], strict=True)) if text else [[]]
    except csv.Error as error:
        raise ValueError(f"parse error on line 1: {error}") from None
    return (*(before if isinstance(before, tuple) else ()), *rows[0])


def _string_bools(text: str, before: object) -> dict[str, bool]:
    result = dict(before) if isinstance(before, dict) else {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError("malformed pair, expect string=bool")
        try:
            result[key.strip()] = parse_bool(value.strip())
        except ValueError as error:
            raise ValueError(f"invalid value of {key.strip()}: {value.strip()}, err: {error}") from None
    return result


def _vmodule(text: str, before: object) -> tuple[VModule, ...]:
    items = list(before) if isinstance(before, tuple) else []
    for pair in filter(None, text.split(",")):
        pattern, *rest = pair.split("=")
        if len(rest) != 1 or not pattern or not rest[0]:
            raise ValueError(f"{quote(pair)} does not have the pattern=N format")
        try:
            level = _level(rest[0], None)
        except ValueError as error:
            raise ValueError(f"parsing verbosity in {quote(pair)}: {error}") from None
        items.append(VModule(pattern, level))  # type: ignore[arg-type] # checked just above
    return tuple(items)


def _ip(text: str, _: object) -> str:
    if text:
        _check_ip(text)
    return text


def _check_ip(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{quote(text)} is not a valid IP address") from None


def _ip_port(text: str, _: object) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if text:
            _check_ip_port(text)
    return text


def _check_ip_port(text: str) -> None:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        why = "too many colons in address" if colon else "missing port in address"
        raise ValueError(f"{quote(text)} is not in a valid format (ip or ip:port): address {text}: {why}")
    _check_ip(host[1:-1] if bracketed else host)
    if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ValueError(f"{quote(port)} is not a valid number")


def _quantity(text: str, _: object) -> str:
    try:
        parse_quantity(text)
    except ValueError as error:
        raise ValueError(f"quantities {error}") from None
    return text


def _version(text: str, _: object) -> str:
    """Parses true, false, raw. A version to report is accepted, as in kube-proxy, and ignored."""
    if text == "raw" or re.fullmatch(r"v\d+\.\d+\.\d+\S*", text):
        return text
    return "true" if parse_bool(text) else ""


def _show_bools(values: Mapping[str, bool]) -> str:
    return ",".join(f"{name}={_show_bool(value)}" for name, value in sorted(values.items()))


def _show_bool(value: bool) -> str:
    return str(value).lower()


BOOL = Kind("bool", lambda text, _: parse_bool(text), False, alone="true", show=_show_bool)
STRING = Kind("string", lambda text, _: text, "")
INT32 = Kind("int32", _int32, 0)
FLOAT32 = Kind("float32", _float32, 0.0, show=lambda value: f"{value:g}")
DURATION = Kind("duration", _duration, 0.0, show=format_duration)
STRINGS = Kind("strings", _strings, (), show=lambda values: f"[{','.join(values)}]")
STRING_BOOLS = Kind("mapStringBool", _string_bools, {}, show=_show_bools)
IP = Kind("ip", _ip, "")
IP_PORT = Kind("ipport", _ip_port, "")
QUANTITY = Kind("quantity", _quantity, "0")
LEVEL = Kind("Level", _level, 0)
VMODULE = Kind(
    "pattern=N,...", _vmodule, (), show=lambda items: ",".join(f"{i.file_pattern}={i.verbosity}" for i in items)
)
VERSION = Kind("version[=true]", _version, "", alone="true", show=lambda text: text or "false")
LOCAL_MODE = Kind("LocalMode", lambda text, _: text, "")
PROXY_MODE = Kind("ProxyMode", lambda text, _: text, "")


def choice(*allowed: str) -> Kind:
    """Returns a type with a fixed set of words."""

    def parse(text: str, _: object) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return Kind("|".join(allowed), parse, "")
