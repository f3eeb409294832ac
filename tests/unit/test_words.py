"""hack/check-words finds what it bans: in each kind of file, and only in prose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FOUND = {
    "comment.py": "x = 1  # Somebody else writes here.\n",
    "two-lines.py": "# The value is\n# no token.\n",
    "docstring.py": 'def f():\n    """Gives the port."""\n',
    "module.py": '"""See the module."""\n',
    "python/ferrule/message.py": 'raise ValueError(f"{path}: is no kubeconfig")\n',
    "comment.rs": "/// Returns what nobody owns.\nfn f() {}\n",
    "trailing.rs": 'let url = "http://x"; // Whoever asks.\n',
    "rust/engine/src/message.rs": 'fn f() -> &\'static str { "is no port" }\n',
    "page.md": "Rules that are written by\nnobody.\n",
    "script": "#!/bin/sh\n# Nobody calls this.\n",
    "values.yaml": "key: 1 # strangers\n",
    "path.json": '{"file": "/' + 'home/me/x"}\n',
}
"""By file: content with one fault."""

PASSES = {
    "names.py": 'nobody = "an account"\nassert who == "nobody"\n',
    "idiom.py": "# There is no other way, and it is no longer needed; it is no more than one.\n",
    "code.md": "Run `sudo -u nobody id`:\n\n```console\n$ sudo -u nobody id\n```\n",
    "test.rs": '#[cfg(test)]\nmod tests { const ACCOUNT: &str = "nobody"; }\n',
    "rust/engine/src/tail.rs": '#[cfg(test)]\nmod tests { const ACCOUNT: &str = "nobody"; }\n',
    "tests/cases/recorded.md": "Recorded by somebody.\n",
    "url.py": 'HOME = "https://example.com/' + 'home/"\n',
}


def check(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "hack/check-words", folder], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr + done.stdout


def write(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize("name", FOUND)
def test_a_banned_construction_is_found(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, FOUND[name])
    code, output = check(tmp_path)
    assert code == 1
    assert output.count("\n") == 1
    assert output.startswith(f"ferrule: {name}:")


@pytest.mark.parametrize("name", PASSES)
def test_anything_else_passes(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, PASSES[name])
    assert check(tmp_path) == (0, "")


def test_a_file_to_be_rewritten_is_passed_over_until_it_is(tmp_path: Path) -> None:
    write(tmp_path, "hack/words-to-rewrite", "# Files\na.py\nb.py\n")
    write(tmp_path, "a.py", "# Nobody.\n")
    write(tmp_path, "b.py", "# No process.\n")
    assert check(tmp_path) == (0, "ferrule: hack/words-to-rewrite: b.py is rewritten, remove it\n")
