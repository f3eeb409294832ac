"""Tests the wheel: its content, its metadata, and that it runs in a separate venv."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from ferrule._engine import build_info

ROOT = Path(__file__).parents[2]
VERSION = build_info()["version"]


@pytest.fixture(scope="module")
def wheel() -> Path:
    found = sorted((ROOT / "dist").glob("ferrule-*.whl"))
    if not found:
        pytest.skip("no wheel in dist: make wheel")
    assert len(found) == 1, "make wheel leaves one"
    return found[0]


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def information(contents: dict[str, bytes], name: str) -> str:
    return contents[f"ferrule-{VERSION}.dist-info/{name}"].decode()


@pytest.fixture(scope="module")
def metadata(contents: dict[str, bytes]) -> Message:
    return email.message_from_string(information(contents, "METADATA"))


def test_one_wheel_serves_every_python_and_glibc_from_2_28(wheel: Path, contents: dict[str, bytes]) -> None:
    """The manylinux tag is maturin's, from the symbols of the extension; abi3 is the project's promise."""
    tag = f"cp311-abi3-manylinux_2_28_{os.uname().machine}"
    assert wheel.name == f"ferrule-{VERSION}-{tag}.whl"
    assert f"Tag: {tag}\n" in information(contents, "WHEEL")
    assert "ferrule/_engine.abi3.so" in contents
    versions = {part for part in contents["ferrule/_engine.abi3.so"].split(b"\0") if part.startswith(b"GLIBC_2.")}
    newest = max(tuple(int(n) for n in v.removeprefix(b"GLIBC_").split(b".")) for v in versions)
    assert (2, 2) < newest <= (2, 28)


def test_it_holds_the_package_and_nothing_beside(contents: dict[str, bytes]) -> None:
    """Compared with the tree byte for byte: a stale wheel fails here too. Omissions are configured in
    pyproject.toml, and so are files beside the package."""
    maturin = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["maturin"]
    patterns = [e if isinstance(e, str) else e["path"] for e in maturin.get("exclude", ())]
    excluded = {path for pattern in patterns for path in ROOT.glob(pattern)}
    expected = {
        path.relative_to(ROOT / "python").as_posix(): path.read_bytes()
        for path in (ROOT / "python" / "ferrule").rglob("*")
        if path.suffix in {".py", ".pyi", ".typed"} and path not in excluded
    }
    found = {name: data for name, data in contents.items() if name.startswith("ferrule/") and not name.endswith(".so")}
    assert found.keys() == expected.keys(), "make wheel again"
    assert [name for name in found if found[name] != expected[name]] == [], "make wheel again"
    beside = {n for n in contents if not n.startswith(("ferrule/", f"ferrule-{VERSION}.dist-info/"))}
    assert beside == set(maturin.get("include", ()))


def test_the_product_runs_without_its_tests_helpers(contents: dict[str, bytes]) -> None:
    """The wheel may contain `ferrule.testing` for its users; no other module may import it."""
    needing = [
        name
        for name, data in contents.items()
        if name.endswith(".py") and not name.startswith("ferrule/testing/") and b"ferrule.testing" in data
    ]
    assert needing == []


def test_what_it_says_of_itself(contents: dict[str, bytes], metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (metadata["Name"], metadata["Version"]) == ("ferrule", VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert information(contents, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    assert metadata["Requires-Python"] == ">=3.11"
    needs = [need for need in metadata.get_all("Requires-Dist") or [] if "extra ==" not in need]
    assert {need.lower().replace("_", "-") for need in needs} == {
        need.lower().replace("_", "-") for need in project["dependencies"]
    }
    assert information(contents, "entry_points.txt").split() == ["[console_scripts]", "ferrule=ferrule.cli:program"]


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a venv with only the wheel. Its dependencies are this venv's, which the lock file pinned and `make
    build` checked by hash; the folder is at the end of the path, so that ferrule itself can only be the wheel's."""
    folder = tmp_path_factory.mktemp("wheel") / "venv"
    venv.create(folder)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install")
    subprocess.run((*pip, "-q", "--no-index", "--no-deps", str(wheel)), check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def run(fresh: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{fresh}/bin:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=fresh)


def test_it_runs_where_only_it_is_installed(fresh: Path) -> None:
    where = run(fresh, "python", "-c", "import ferrule._engine as e; print(e.__file__)")
    assert where.stdout.startswith(f"{fresh}/lib/"), where.stderr
    done = run(fresh, "ferrule", "version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"ferrule {VERSION} (release, ")


def test_it_renders_as_the_source_tree_does(fresh: Path) -> None:
    arguments = ("render", "--manifests", str(ROOT / "examples" / "shop"), "--hostname-override", "node-1")
    installed = run(fresh, "ferrule", *arguments)
    assert installed.returncode == 0, installed.stderr
    assert "KUBE-SERVICES" in installed.stdout
    source = subprocess.run((sys.executable, "-m", "ferrule", *arguments), capture_output=True, text=True, check=True)
    assert installed.stdout == source.stdout
