"""The entry point: decodes and validates a file into `Settings`, or reports every fault."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ferrule.config.decode import Findings, decode
from ferrule.config.defaults import complete
from ferrule.config.schema import API_VERSION, KIND, Settings
from ferrule.config.validate import validate
from ferrule.errors import ConfigError
from ferrule.yamljson import YamlError, load_first


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid file."""

    settings: Settings
    content: bytes
    """The content of the file, with which a watch compares, so that no change is missed in between."""
    strict_faults: tuple[str, ...] = ()
    """Unknown and repeated fields: kube-proxy decodes such a file once more, leniently, and logs it."""
    warnings: tuple[str, ...] = ()
    """Warnings about the file itself."""


def read_config(path: Path) -> Loaded:
    """Reads a file as kube-proxy does: unknown and repeated fields are reported and ignored, all other faults raise
    `ConfigError`."""
    content = _read(path)
    settings, strict_faults = parse_config(content, str(path), strict=False)
    return Loaded(settings, content, tuple(strict_faults), tuple(_permissions(path)))


def load_config(path: Path, *, strict: bool = True) -> Settings:
    """Reads a file. Raises `ConfigError` with all faults. With `strict`, unknown and repeated fields are faults;
    otherwise they are ignored."""
    settings, _ = parse_config(_read(path), str(path), strict=strict)
    return settings


def parse_config(data: bytes, source: str, *, strict: bool = True) -> tuple[Settings, list[str]]:
    """Parses bytes. Returns the settings and the warnings. `source` names the file in errors."""
    try:
        document, repeated = load_first(data)
    except YamlError as error:
        raise ConfigError([f"{source}: {error}"]) from error
    if not isinstance(document, dict):
        raise ConfigError([f"{source}: is not a {KIND}: it has no fields"])
    _check_kind(document, source)
    findings = Findings()
    if repeated:
        (findings.faults if strict else findings.warnings).extend(
            f"duplicate field {path!r}" for path in _repeated(next(yaml.compose_all(data, yaml.CSafeLoader), None), "")
        )
    settings = complete(decode(document, findings, strict=strict), document)
    findings.faults += validate(settings)
    if findings.faults:
        raise ConfigError([f"{source}: {fault}" for fault in findings.faults])
    return settings, findings.warnings


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([f"cannot read the configuration {path}: {error.strerror}"]) from error


def _permissions(path: Path) -> Iterator[str]:
    """Yields warnings about permissions. Not an error, because kube-proxy starts with such a file, and its
    replacement must as well."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # deleted since it was read: the watch reports it
    if os.geteuid() == 0 and mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield f"{path} is writable by group or others (mode {stat.S_IMODE(mode):04o}): they decide what root does here"


def _repeated(node: yaml.Node | None, path: str) -> Iterator[str]:
    """Yields the paths of repeated fields."""
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _repeated(item, f"{path}[{i}]")
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            at = f"{path}.{key.value}" if path else str(key.value)
            if at in seen and key.value != "<<":
                yield at
            seen.add(at)
            yield from _repeated(value, at)


def _check_kind(document: dict[str, object], source: str) -> None:
    faults = []
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        value = document.get(field)
        if value is None:
            faults.append(f"{source}: {field}: is missing, must be {wanted}")
        elif value != wanted:
            faults.append(f'{source}: {field}: Invalid value: "{value}": must be {wanted}')
    if faults:
        raise ConfigError(faults)
