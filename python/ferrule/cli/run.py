"""`ferrule run`, also used under the name `kube-proxy`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ferrule.cli.flags import FLAGS
from ferrule.cli.help import run_help
from ferrule.cli.pflag import FlagError, parse, shown
from ferrule.cli.settings import Resolved, resolve
from ferrule.config.advice import advice
from ferrule.config.quantity import parse_quantity
from ferrule.config.schema import Logging, Settings
from ferrule.config.show import as_yaml
from ferrule.errors import InputError
from ferrule.observe.logs import LogOptions, kv, set_up
from ferrule.process.shutdown import Shutdown

log = logging.getLogger(__name__)

ENDING = ("once", "init-only", "cleanup", "write-config-to")
"""Flags with which the program ends on its own. A signal before that leaves work incomplete, so the exit code is not
0."""


def run(argv: Sequence[str]) -> int:
    """Runs the command. Returns the exit code. Raises `FerruleError` with a message for the user."""
    # First of all: process 1 of a container does not even receive a signal that it has no handler for.
    with Shutdown() as shutdown:
        return _run(argv, shutdown)


def _run(argv: Sequence[str], shutdown: Shutdown) -> int:
    parsed = parse(argv, FLAGS)
    if parsed.help:
        sys.stdout.write(run_help())
        return 0
    words = [word for word in parsed.words if word]
    if words:
        raise FlagError(f"takes no arguments besides flags, got {' '.join(map(repr, words))}")
    given = parsed.values
    if given.get("version") in ("true", "raw"):
        from ferrule.cli.version import version  # noqa: PLC0415 - loads the engine

        print(version(whole=given["version"] == "raw"))
        return 0
    if not any(given.get(flag) for flag in ENDING):
        shutdown.exit_code = 0
    resolved = resolve(parsed)
    set_up(log_options(resolved.settings.logging))
    _tell(resolved, given)
    if given.get("write-config-to"):
        return _write_config(Path(given["write-config-to"]), _effective(resolved.settings, given))
    if given.get("cleanup"):
        from ferrule.cli.cleanup import cleanup  # noqa: PLC0415 - only where it is asked for

        return cleanup()
    return _daemon(resolved, given, shown(parsed, FLAGS), shutdown)


def log_options(section: Logging) -> LogOptions:
    """Returns the log options of the configuration's section."""
    as_json = section.format == "json"
    output = section.options.json if as_json else section.options.text
    return LogOptions(
        verbosity=section.verbosity,
        as_json=as_json,
        vmodule=tuple((item.file_pattern, item.verbosity) for item in section.vmodule),
        split_stream=output.split_stream,
        buffer_bytes=parse_quantity(output.info_buffer_size),
        flush_seconds=section.flush_frequency,
    )


def _tell(resolved: Resolved, given: dict[str, Any]) -> None:
    if resolved.file is not None and resolved.file.strict_faults:
        log.warning(
            "Using lenient decoding as strict decoding failed",
            extra=kv(file=given["config"], err=", ".join(resolved.file.strict_faults)),
        )
    for warning in resolved.warnings:
        log.warning("Command line", extra=kv(reason=warning))


def _effective(settings: Settings, given: dict[str, Any]) -> Settings:
    """The settings, with the field that a flag of ferrule's own overrides."""
    backend = given.get("backend")
    return replace(settings, ferrule=replace(settings.ferrule, backend=backend)) if backend else settings


def _write_config(path: Path, settings: Settings) -> int:
    try:
        path.write_text(as_yaml(settings))
    except OSError as error:
        raise InputError(f"--write-config-to: cannot write {path}: {error.strerror}") from error
    log.info("Wrote configuration", extra=kv(file=str(path)))
    return 0


def _daemon(resolved: Resolved, given: dict[str, Any], flags: dict[str, str], shutdown: Shutdown) -> int:
    from ferrule.daemon import DaemonOptions  # noqa: PLC0415 - loads the engine and the loop
    from ferrule.daemon import run as serve  # noqa: PLC0415
    from ferrule.types import Backend  # noqa: PLC0415

    for sentence in advice(resolved.settings):
        log.warning("Configuration may be incomplete or incorrect", extra=kv(reason=sentence))
    return serve(
        DaemonOptions(
            settings=resolved.settings,
            manifests=Path(given["manifests"]) if given.get("manifests") else None,
            once=given.get("once", False),
            backend=Backend(given["backend"]) if given.get("backend") else None,
            config_file=Path(given["config"]) if resolved.file else None,
            config_content=resolved.file.content if resolved.file else None,
            init_only=given.get("init-only", False),
            master=given.get("master", ""),
            flags=flags,
        ),
        shutdown,
    )
