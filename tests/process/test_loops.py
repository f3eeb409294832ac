"""`ferrule run` on each event loop: nothing that asyncio or Python reports besides the log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ferrule.testing.daemon import Ferrule
from ferrule.testing.netns import NetNs
from tests.objects import NODE, endpoint, endpoint_slice, service
from tests.process.ferrule import rules, write

pytestmark = pytest.mark.netns

LOG_LINE = re.compile(r"[IWE]\d{4} ")
SLOW = re.compile(r"Executing <.* took [\d.]+ seconds")
"""Debug mode's line about a callback that took long: on a busy machine any."""

FORMS = {
    "uvloop": {},
    "asyncio": {"PYTHONPATH": "{without}"},
    "asyncio-debug": {"PYTHONPATH": "{without}", "PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1"},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_life_on_each_loop(netns: NetNs, tmp_path: Path, form: str) -> None:
    without, folder = tmp_path / "without", tmp_path / "manifests"
    without.mkdir()
    (without / "uvloop.py").write_text('raise ImportError("not on this machine")\n')
    environment = {name: value.format(without=without) for name, value in FORMS[form].items()}
    write(folder, "web.yaml", [NODE, service(), endpoint_slice([endpoint("10.128.1.10")])])
    with Ferrule(netns, folder, "--backend", "nft", environment=environment) as daemon:
        daemon.wait_for('"Synced"', "ipv4")
        loops = Path(f"/proc/{daemon.child.pid}/maps").read_text().count("/uvloop/")
        assert (loops > 0) is (form == "uvloop")
        mark = len(daemon.log)
        write(folder, "web.yaml", [NODE, service(), endpoint_slice([endpoint("10.128.1.11")])])
        daemon.wait_for('"Synced"', "ipv4", after=mark)
        assert "10.128.1.11:8080" in rules(netns, "nft")
        (folder / "broken.yaml").write_text("kind: [")
        daemon.wait_for('"Bad input"', "broken.yaml")
        assert daemon.stop() == 0
        others = [line for line in daemon.log if not LOG_LINE.match(line) or "asyncio" in line]
        assert [line for line in others if not SLOW.search(line)] == []
