"""Renders the effective configuration in kube-proxy's format and order: for `/configz` and `--write-config-to`. Pure.

Fields that kube-proxy drops between reading and showing are empty here too (the periods of other modes, `portRange`),
so that a comparison shows no difference. `/configz` includes ferrule's own section only where it was changed; the file
always has it, because it documents the fields.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import orjson
import yaml

from ferrule.config.decode import api_name
from ferrule.config.duration import format_duration
from ferrule.config.schema import API_VERSION, KIND, Ferrule, FlushSeconds, Seconds, Settings

GROUP = "kubeproxy.config.k8s.io"

_ORDER = (
    "feature_gates",
    "client_connection",
    "logging",
    "hostname_override",
    "bind_address",
    "healthz_bind_address",
    "metrics_bind_address",
    "bind_address_hard_fail",
    "enable_profiling",
    "show_hidden_metrics_for_version",
    "mode",
    "iptables",
    "ipvs",
    "nftables",
    "winkernel",
    "detect_local_mode",
    "detect_local",
    "cluster_cidr",
    "node_port_addresses",
    "oom_score_adj",
    "conntrack",
    "config_sync_period",
    "port_range",
    "windows_run_as_service",
    "ferrule",
)

_OMIT_EMPTY = frozenset({"feature_gates", "vmodule", "split_stream", "windows_run_as_service", "ferrule"})
"""Fields that kube-proxy omits when they are empty."""


def configz(settings: Settings) -> bytes:
    """Returns the body of `/configz`."""
    return orjson.dumps({GROUP: {"kind": KIND, "apiVersion": API_VERSION} | fields(settings)})


def as_yaml(settings: Settings) -> str:
    """Returns a file with every field, which `--config` takes."""
    own = {"ferrule": _section(settings.ferrule)}
    document = {"apiVersion": API_VERSION, "kind": KIND} | fields(settings) | own
    return yaml.safe_dump(document, sort_keys=True, allow_unicode=True)


def fields(settings: Settings) -> dict[str, Any]:
    """Returns all fields except apiVersion and kind, as JSON values."""
    effective = dataclasses.replace(
        settings,
        mode=settings.mode or "iptables",
        ipvs=dataclasses.replace(settings.ipvs, sync_period=Seconds(0), min_sync_period=Seconds(0)),
        nftables=dataclasses.replace(
            settings.nftables, masquerade_all=False, sync_period=Seconds(0), min_sync_period=Seconds(0)
        ),
        port_range="",
    )
    shown = _section(effective, _ORDER)
    if settings.ferrule == Ferrule():
        del shown["ferrule"]
    return shown


def _section(section: Any, names: tuple[str, ...] = ()) -> dict[str, Any]:
    hints = typing.get_type_hints(type(section))
    shown: dict[str, Any] = {}
    for name in names or tuple(field.name for field in dataclasses.fields(section)):
        value = getattr(section, name)
        if value or name not in _OMIT_EMPTY:
            shown[api_name(name)] = _value(value, hints[name])
    return shown


def _value(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _section(value)
    if hint in (Seconds, FlushSeconds):
        return format_duration(value)
    if isinstance(value, tuple):
        return [_value(item, type(item)) for item in value] or None  # as Go shows an unset list
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
