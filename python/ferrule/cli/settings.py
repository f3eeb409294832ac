"""Combines flags and file into `Settings` with kube-proxy's precedence. Reads only the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ferrule.cli.flags import BESIDE_A_FILE, FLAGS, LOGGING
from ferrule.cli.pflag import FlagError, Parsed
from ferrule.cli.values import IP, IP_PORT
from ferrule.config.defaults import HEALTHZ_PORT, METRICS_PORT, host_port
from ferrule.config.load import Loaded, read_config
from ferrule.config.schema import Settings
from ferrule.config.validate import validate
from ferrule.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Resolved:
    """The resolved settings of the daemon."""

    settings: Settings
    file: Loaded | None
    warnings: tuple[str, ...]


def resolve(parsed: Parsed) -> Resolved:
    """Resolves the settings. With a file, only logging flags and the node's name are taken from the command line; a
    warning lists the others. Raises `ConfigError` with all faults, `FlagError` for contradictory combinations."""
    given = parsed.values
    _contradictions(given)
    warnings = [f"--{name} is deprecated: {FLAGS[name].deprecated}" for name in given if FLAGS[name].deprecated]
    loaded = None
    if given.get("config"):
        loaded = read_config(Path(given["config"]))
        settings = _apply(loaded.settings, {name: value for name, value in given.items() if name in LOGGING})
        ignored = sorted(given.keys() - BESIDE_A_FILE)
        if ignored:
            warnings.append(f"--config is given: ignored {', '.join(f'--{name}' for name in ignored)}")
        warnings += loaded.warnings
    else:
        settings = _ports(_apply(Settings(), given), given)
    name = given.get("hostname-override", "")
    if name:
        if not name.strip():
            raise FlagError("--hostname-override is blank")
        settings = replace(settings, hostname_override=name.strip().lower())
    faults = validate(settings)
    if faults:
        raise ConfigError(faults)
    return Resolved(settings, loaded, tuple(warnings))


def _contradictions(given: dict[str, Any]) -> None:
    if given.get("cleanup") and given.get("init-only"):
        raise FlagError("--cleanup removes what --init-only prepares for: give one of them")
    if given.get("manifests"):
        for name in ("kubeconfig", "master"):
            if given.get(name):
                raise FlagError(f"--manifests needs no API server, --{name} names one: give one of them")
    elif given.get("once"):
        raise FlagError("--once needs --manifests")


def _apply(settings: Settings, given: dict[str, Any]) -> Settings:
    for name, value in given.items():
        path = FLAGS[name].path
        if value == "" and FLAGS[name].kind in (IP, IP_PORT):
            continue  # as in stock: an empty address leaves the default
        if name == "vmodule":
            value = (*value, *settings.logging.vmodule)  # noqa: PLW2901 - the flag's patterns come first, and so decide
        if path:
            settings = _with(settings, path.split("."), value)
    return settings


def _with(section: Any, path: list[str], value: object) -> Any:
    head, *rest = path
    return replace(section, **{head: _with(getattr(section, head), rest, value) if rest else value})


def _ports(settings: Settings, given: dict[str, Any]) -> Settings:
    """Applies the deprecated port flags as kube-proxy does: 0 disables a listener, another port is added to an
    address without one. The default addresses have a port, so they do not change."""
    healthz = given.get("healthz-port", HEALTHZ_PORT)
    metrics = given.get("metrics-port", METRICS_PORT)
    return replace(
        settings,
        # An empty mode of the flag means the default one, as an empty field does.
        detect_local_mode=settings.detect_local_mode or Settings().detect_local_mode,
        healthz_bind_address=host_port(settings.healthz_bind_address, healthz) if healthz else "",
        metrics_bind_address=host_port(settings.metrics_bind_address, metrics) if metrics else "",
    )
