"""The door: a file's bytes → `Settings`, or every reason why not."""

from __future__ import annotations

from pathlib import Path

from ferrule.config.decode import Findings, decode
from ferrule.config.schema import API_VERSION, KIND, Settings
from ferrule.config.validate import validate
from ferrule.errors import ConfigError
from ferrule.yamljson import YamlError, load_first


def load_config(path: Path, *, strict: bool = True) -> Settings:
    """Raises `ConfigError` with all faults. `strict`: unknown and repeated fields are faults, else only logged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"cannot read the configuration {path}: {error.strerror}"]) from error
    settings, _ = parse_config(data, str(path), strict=strict)
    return settings


def parse_config(data: bytes, source: str, *, strict: bool = True) -> tuple[Settings, list[str]]:
    """The same for bytes; gives the warnings too. `source` names the file in errors."""
    try:
        document, repeated = load_first(data)
    except YamlError as error:
        raise ConfigError([f"{source}: {error}"]) from error
    if not isinstance(document, dict):
        raise ConfigError([f"{source}: is no {KIND}: there are no fields in it"])
    _check_kind(document, source)
    findings = Findings()
    (findings.faults if strict else findings.warnings).extend(f"duplicate field {path!r}" for path in repeated)
    settings = decode(document, findings, strict=strict)
    findings.faults += validate(settings)
    if findings.faults:
        raise ConfigError([f"{source}: {fault}" for fault in findings.faults])
    return settings, findings.warnings


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
