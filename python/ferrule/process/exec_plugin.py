"""Runs a kubeconfig's credential plugin (`exec`) with kubernetes_asyncio's `ExecProvider`.

What that leaves out is added here: a time limit that also ends the child, by timeout(1), because the provider gives no
handle on its process.

The library is imported when the first plugin runs: its package imports every model of the API, 36 MiB of resident
memory and 0.6 s. A Pod with a service account's token never pays them.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

from ferrule.errors import InputError

if TYPE_CHECKING:
    from kubernetes_asyncio.config.exec_provider import ExecProvider

PLUGIN_SECONDS = 60
"""How long a plugin may take. It talks to a cloud's token service; the slow ones take a few seconds."""

KILL_SECONDS = 5
"""How long a plugin that ignores SIGTERM may live on."""


class _Section(dict[str, Any]):
    """What `ExecProvider` wants its section to be: a `ConfigNode` without the file around it."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return _Arguments(value) if key == "args" else value

    def safe_get(self, key: str) -> Any:
        """None where there is nothing."""
        return self.get(key)


class _Arguments(list[Any]):
    @property
    def value(self) -> list[Any]:
        return list(self)


async def run(section: dict[str, Any], *, seconds: int = PLUGIN_SECONDS) -> Any:
    """The `status` that the plugin printed, unread. Raises `InputError`: whatever is wrong, it is the plugin or its
    section of the kubeconfig."""
    command = section["command"]
    if shutil.which(command) is None:
        hint = section.get("installHint") or ""
        raise InputError(f"exec plugin {command}: not found or not executable {hint}".rstrip())
    # In a thread: half a second of imports would hold up the event loop.
    provider = await asyncio.to_thread(_provider, section)
    guard = shutil.which("timeout")
    if guard is not None:
        provider.args = [guard, "-k", str(KILL_SECONDS), str(seconds), *provider.args]
    try:
        # The provider waits for the child's end of output; timeout(1) must get there first.
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
    from kubernetes_asyncio.config.exec_provider import ExecProvider  # noqa: PLC0415 - see the module's docstring

    return ExecProvider(_Section(section))  # type: ignore[arg-type] # it uses what `_Section` has
