"""Runs a kubeconfig's credential plugin (`exec`) with kubernetes_asyncio's `ExecProvider`.

This module adds a time limit that also ends the child, with timeout(1), because the provider does not expose its
process.

The library is imported when the first plugin runs: its package imports every model of the API, 36 MiB of resident
memory and 0.6 s. A Pod with a service account token never imports it.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

from ferrule.errors import InputError

if TYPE_CHECKING:
    from kubernetes_asyncio.config.exec_provider import ExecProvider

PLUGIN_SECONDS = 60
"""The time limit of a plugin, in seconds. It contacts a cloud's token service; the slow ones take a few seconds."""

KILL_SECONDS = 5
"""Seconds after which a plugin that ignores SIGTERM is killed."""


class _Section(dict[str, Any]):
    """The section in the form that `ExecProvider` expects: a `ConfigNode` without the file around it."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return _Arguments(value) if key == "args" else value

    def safe_get(self, key: str) -> Any:
        """Returns the value, or None."""
        return self.get(key)


class _Arguments(list[Any]):
    @property
    def value(self) -> list[Any]:
        return list(self)


async def run(section: dict[str, Any], *, seconds: int = PLUGIN_SECONDS) -> Any:
    """Returns the undecoded `status` that the plugin printed. Raises `InputError` for all failures of the plugin and
    of its section in the kubeconfig."""
    command = section["command"]
    if shutil.which(command) is None:
        hint = section.get("installHint") or ""
        raise InputError(f"exec plugin {command}: not found or not executable {hint}".rstrip())
    # In a thread, because half a second of imports would block the event loop.
    provider = await asyncio.to_thread(_provider, section)
    guard = shutil.which("timeout")
    if guard is not None:
        provider.args = [guard, "-k", str(KILL_SECONDS), str(seconds), *provider.args]
    try:
        # The provider waits for the end of the child's output; timeout(1) must fire first.
        async with asyncio.timeout(seconds + 2 * KILL_SECONDS):
            return await provider.run()
    except TimeoutError as error:
        raise InputError(f"exec plugin {command}: still running after {seconds} s") from error
    except Exception as error:  # ConfigException, OSError, UnicodeError, and what the provider does not check
        text = " ".join(str(error).split())
        if guard is not None and ("returned 124" in text or "returned 137" in text):
            text = f"killed: still running after {seconds} s"
        raise InputError(f"exec plugin {command}: {text}") from error


def _provider(section: dict[str, Any]) -> ExecProvider:
    from kubernetes_asyncio.config.exec_provider import ExecProvider  # noqa: PLC0415 - imports every model of the API

    return ExecProvider(_Section(section))  # type: ignore[arg-type] # it uses what `_Section` has
