"""Results: rows, machine, versions, in one JSON file that grows row by row."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1
ROOT = Path(__file__).parents[1]
Status = Literal["ok", "failed", "unfinished", "skipped"]


@dataclass(slots=True)
class Row:
    """One measurement. The unit is in each value's name; `status` other than ok has a reason.

    `unfinished`: stopped after the seconds that it holds. `skipped`: a prerequisite was missing.
    """

    row: str
    shape: str = ""
    subject: str = ""
    backend: str = ""
    values: dict[str, float] = field(default_factory=dict)
    status: Status = "ok"
    reason: str = ""
    took: float = 0.0
    """Seconds of the whole row, including set-up and checks."""

    @property
    def key(self) -> str:
        """The key of the row, unique in a run."""
        return "/".join(part for part in (self.row, self.shape, self.subject, self.backend) if part)


@dataclass(slots=True)
class Results:
    """The results of a run, in a file that is complete after every row."""

    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Adds a row, and replaces an older one with the same key."""
        self.rows = [one for one in self.rows if one.key != row.key] + [row]

    def find(self, row: str, shape: str = "", subject: str = "", backend: str = "") -> Row | None:
        """Returns a row; None if it was not measured."""
        key = Row(row, shape, subject, backend).key
        return next((one for one in self.rows if one.key == key), None)

    def value(self, name: str, row: str, shape: str = "", subject: str = "", backend: str = "") -> float | None:
        """Returns a value of a successful row."""
        found = self.find(row, shape, subject, backend)
        return found.values.get(name) if found is not None and found.status == "ok" else None

    def save(self, path: Path) -> None:
        """Atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False) + "\n")
        fresh.replace(path)


def load(path: Path) -> Results:
    """Loads results. Raises `ValueError` for another schema."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: no results of schema {SCHEMA}")
    rows = [Row(**row) for row in content["rows"]]
    return Results(content["machine"], content["versions"], content["settings"], rows)


def machine() -> dict[str, Any]:
    """Returns the facts about the machine that the numbers depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GiB": round(int(memory[1]) / (1 << 20), 1) if memory else 0,
        "kernel": platform.release(),
        "load before": round(os.getloadavg()[0], 2),
    }


def stock_version() -> str:
    """Returns the version of the kube-proxy that is built with the control plane."""
    text = (ROOT / "tests" / "e2e" / "controlplane" / "go.mod").read_text()
    found = re.search(r"k8s\.io/kubernetes v(\S+)", text)
    return found[1] if found else ""


def versions(engine: dict[str, str]) -> dict[str, str]:
    """Returns the versions of all components; `engine` is `build_info()`."""
    return {
        "ferrule": f"{engine['version']} ({engine['profile']}, {engine['rustc'].split(' (')[0]})",
        "kube-proxy": stock_version(),
        "iptables": _first_line("iptables-nft", "--version"),
        "nft": _first_line("nft", "--version"),
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def commit() -> str:
    """Returns the short commit, with + for uncommitted changes; empty outside git."""
    known = _first_line("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD")
    changed = _first_line("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return known + ("+" if known and changed else "")


def _first_line(*argv: str) -> str:
    path = f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}"
    program = shutil.which(argv[0], path=path)
    if program is None:
        return ""
    done = subprocess.run((program, *argv[1:]), capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else ""
