"""The demo: a node, three Pods, a client Pod and an external host, as network namespaces; ferrule in the node; a few
hundred real connections; three edits of a manifest and their effects.

Run by `make demo`; `--keep` keeps the namespaces and prints how to inspect them. Needs no cluster and touches only its
own namespaces.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ferrule.testing.daemon import Ferrule
from ferrule.testing.lab import OUTSIDE_OTHER_IP, Lab, Reply, pods, question

HERE = Path(__file__).parent
BAR = 24


@dataclass
class Show:
    """Prints results, and collects failures."""

    failures: list[str] = field(default_factory=list)

    def title(self, text: str) -> None:
        """Starts a section."""
        print(f"\n{text}")

    def check(self, what: str, good: bool) -> None:
        """Records and prints a failed check."""
        if not good:
            self.failures.append(what)
            print(f"  !! {what}")

    def row(self, who: str, service: str, to: str, answers: Sequence[Reply]) -> None:
        """Prints one line per Service: client, target, responses per Pod, and source addresses."""
        counts = pods(answers)
        sources = sorted({a.source for a in answers if a.source})
        cells = []
        for name, n in sorted(counts.items()):
            bar = "█" * max(1, round(BAR * n / max(1, len(answers)) / 2))
            cells.append(f"{name} {bar} {n}")
        seen = f"  seen as {', '.join(sources)}" if sources else ""
        print(f"  {who:<8} → {service:<7} {to:<24} {'  '.join(cells)}{seen}")


ASKS: tuple[tuple[str, str, str, int, int, str | None], ...] = (
    # who, Service, address, port, connections, source
    ("client", "web", "10.96.0.10", 80, 60, None),
    ("client", "cart", "10.96.0.20", 80, 30, None),
    ("client", "search", "10.96.0.30", 9000, 30, None),
    ("client", "search", "fd00:10:96::30", 9000, 30, None),
    ("client", "mail", "10.96.0.40", 25, 5, None),
    ("outside", "web", "192.0.2.10", 80, 60, None),
    ("outside", "web", "192.0.2.10", 80, 3, OUTSIDE_OTHER_IP),
    ("outside", "web", "172.31.250.2", 30080, 30, None),
    ("outside", "admin", "172.31.250.2", 30443, 20, None),
    ("a", "admin", "10.96.0.50", 443, 10, None),
)


def first_round(lab: Lab, show: Show) -> None:
    """Connects to every Service once and checks the result against the manifests."""
    show.title("Client → Service, address: responses per Pod, and the source address that it saw")
    total = 0
    answers: dict[int, list[Reply]] = {}
    for number, (who, service, to, port, count, source) in enumerate(ASKS):
        # Two seconds distinguish a drop from a response; connections from the source that is not allowed time out.
        asked = question(to, port, count=count, source=source, timeout=1.2 if source else 5.0)
        answers[number] = lab[who].ask_all([asked])[0]
        total += count
        show.row(
            who if source is None else "another source",
            service,
            f"[{to}]:{port}" if ":" in to else f"{to}:{port}",
            answers[number],
        )
    print(f"  {total} connections")

    def served(number: int, names: str, sources: Sequence[str] | None = None) -> None:
        who, service, to, *_ = ASKS[number]
        show.check(f"{who} → {service} {to}: only and all of {names}", set(pods(answers[number])) == set(names.split()))
        if sources is not None:
            show.check(
                f"{who} → {service} {to}: seen as {sources}", {a.source for a in answers[number]} <= set(sources)
            )

    client = lab["client"].ips
    served(0, "a b", client)
    show.check(
        "the cart keeps its customer on one Pod", len(pods(answers[1])) == 1 and "timeout" not in pods(answers[1])
    )
    served(2, "b c", client)
    served(3, "b c", client)
    show.check("mail without endpoints refuses", pods(answers[4]) == Counter(refused=5))
    served(5, "a b", ["172.31.250.2"])
    show.check(
        "connections from other sources to the load balancer are dropped", pods(answers[6]) == Counter(timeout=3)
    )
    served(7, "a b", ["172.31.250.2"])
    served(8, "a", ["172.31.250.2"])
    # The only endpoint connects to itself: masqueraded, because the reply would otherwise not return through the node.
    served(9, "a", ["172.31.250.2"])


def edit(daemon: Ferrule, show: Show, path: Path, change: Callable[[str], str]) -> None:
    """Changes a manifest, waits until the kernel has it, prints how long that took."""
    mark = len(daemon.log)
    old = path.read_text()
    new = change(old)
    assert new != old
    path.write_text(new)
    line = daemon.wait_for('"Synced" ipFamily="ipv4"', after=mark)
    found = {
        name: re.search(rf" {name}=([\d.]+)", line)
        for name in ("msSinceChange", "chainsWritten", "chainsDeleted", "ms")
    }
    numbers = {name: match[1] if match else "?" for name, match in found.items()}
    print(
        f"  file written → rules in the kernel: {numbers['msSinceChange']} ms (of them {numbers['ms']} ms sync); "
        f"{numbers['chainsWritten']} chains written, {numbers['chainsDeleted']} deleted"
    )
    show.check("the sync reports its duration", found["msSinceChange"] is not None)


def live_edits(lab: Lab, daemon: Ferrule, show: Show, folder: Path) -> None:
    """Makes three edits of manifests while traffic flows."""
    web, admin = folder / "10-web.yaml", folder / "50-admin.yaml"
    ready = "  - {addresses: [10.128.1.12], nodeName: node-1, conditions: {ready: true}}\n"

    show.title("Edit 1: web scales up to three Pods")
    edit(daemon, show, web, lambda text: text + ready)
    answers = lab["client"].ask("10.96.0.10", 80, count=60)
    show.row("client", "web", "10.96.0.10:80", answers)
    show.check("web is served by a, b and c", set(pods(answers)) == {"a", "b", "c"})

    show.title("Edit 2: Pod a fails its readiness probe")
    edit(
        daemon,
        show,
        web,
        lambda text: text.replace(
            "[10.128.1.10], nodeName: node-1, conditions: {ready: true}",
            "[10.128.1.10], nodeName: node-1, conditions: {ready: false}",
        ),
    )
    answers = lab["client"].ask("10.96.0.10", 80, count=60)
    show.row("client", "web", "10.96.0.10:80", answers)
    show.check("web is served by b and c", set(pods(answers)) == {"b", "c"})

    show.title("Edit 3: admin's externalTrafficPolicy becomes Local: the client's address survives")
    edit(
        daemon,
        show,
        admin,
        lambda text: text.replace("externalTrafficPolicy: Cluster", "externalTrafficPolicy: Local"),
    )
    answers = lab["outside"].ask("172.31.250.2", 30443, count=20)
    show.row("outside", "admin", "172.31.250.2:30443", answers)
    show.check("admin is served by a", set(pods(answers)) == {"a"})
    show.check("a sees the external host's own address", {a.source for a in answers} == {"172.31.250.9"})


def keep(lab: Lab, folder: Path) -> None:
    """Prints how to inspect the namespaces, and waits."""
    node, client = lab.node.netns.name, lab["client"].netns.name
    print(f"""
Kept until Ctrl-C. ferrule follows {folder}
  the rules            ip netns exec {node} iptables-nft-save -t nat
  as a client          ip netns exec {client} curl -m 2 telnet://10.96.0.10:80   (? requests the Pod name)
  edit and watch       $EDITOR {folder}/10-web.yaml
  all namespaces       ip netns list | grep ferrule-""")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()


def main() -> int:
    """Runs the demo. Returns the exit code: 0 if every check passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the namespaces and print how to inspect them")
    keeping = parser.parse_args().keep
    show = Show()
    with tempfile.TemporaryDirectory(prefix="ferrule-demo-") as scratch, Lab(local=("a", "b", "c")) as lab:
        folder = Path(scratch) / "shop"
        shutil.copytree(HERE / "shop", folder)
        daemon = Ferrule(lab.node.netns, folder, "--config", str(HERE / "config.yaml"))
        try:
            print(
                "A node with Pods a, b, c and a client Pod; an external host. ferrule follows a copy of examples/shop."
            )
            print("  " + daemon.wait_for('"Starting ferrule"').split('"Starting ferrule" ')[1].strip())
            daemon.wait_for('"Synced" ipFamily="ipv6"')
            first_round(lab, show)
            live_edits(lab, daemon, show, folder)
            if keeping:
                keep(lab, folder)
        except (AssertionError, RuntimeError) as error:
            show.failures.append(str(error))
            print(f"  !! {error}")
        finally:
            code = daemon.stop()
            daemon.kill()
    show.check("ferrule ended cleanly", code == 0)
    good = "PASS: every connection went where the manifests say."
    print(f"\n{'FAIL: ' + '; '.join(show.failures) if show.failures else good}")
    return 1 if show.failures else 0


if __name__ == "__main__":
    sys.exit(main())
