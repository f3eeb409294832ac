"""Single modules of kubernetes_asyncio without the rest of it.

`import kubernetes_asyncio` runs its `__init__`, which imports some 700 model classes: +38 MiB of resident memory (35 →
73 MiB, with aiohttp loaded before), of the 90 MiB that the whole daemon may take. The modules we use need none of it:
`config.exec_provider` alone costs less than 0.1 MiB. So its packages are stood in for by empty ones with the same
search path while the module is imported, and taken away afterwards: a later plain `import kubernetes_asyncio` finds
everything as usual.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PACKAGE = "kubernetes_asyncio"


def lean_import(name: str) -> ModuleType:
    """`kubernetes_asyncio.a.b` without running the `__init__` of any package above it."""
    if PACKAGE in sys.modules:
        return importlib.import_module(name)
    root = importlib.util.find_spec(PACKAGE)  # of a top-level package: looks, runs nothing
    if root is None or not root.submodule_search_locations:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed", name=PACKAGE)
    folder = Path(root.submodule_search_locations[0])
    try:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            package = ModuleType(".".join(parts[:depth]))
            package.__path__ = [str(folder.joinpath(*parts[1:depth]))]
            sys.modules[package.__name__] = package
        return importlib.import_module(name)
    finally:
        for loaded in [m for m in sys.modules if m == PACKAGE or m.startswith(f"{PACKAGE}.")]:
            del sys.modules[loaded]
