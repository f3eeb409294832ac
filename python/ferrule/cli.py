"""Arguments → what to do. Imports of the heavy parts stay inside the commands, so that `--help` is quick."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ferrule.errors import ConfigError, DataplaneError, FailureKind, FerruleError

if TYPE_CHECKING:
    from ferrule.config.schema import Settings


@dataclass(frozen=True, slots=True)
class _Example:
    command: str
    meaning: str


def _epilog(*examples: _Example) -> str:
    return "examples:\n" + "\n".join(f"  {e.command}\n      {e.meaning}" for e in examples)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="ferrule",
        allow_abbrev=False,
        description="Kubernetes Service proxy: keeps a node's iptables rules such that Services reach their Pods.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(
            _Example(
                "ferrule render --manifests examples/shop", "print the rules for a folder of manifests; needs no rights"
            ),
            _Example("ferrule run --manifests /etc/ferrule/manifests", "keep the kernel in step with that folder"),
        ),
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _run_parser(commands)
    _render_parser(commands)
    _cleanup_parser(commands)
    version = commands.add_parser(
        "version",
        allow_abbrev=False,
        help="print version and build",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(_Example("ferrule version", "ferrule 0.1.0 (release, …)")),
    )
    version.set_defaults(call=_version)
    return parser


def _run_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="program the kernel and keep it in step",
        description="Follow a folder of manifests (YAML with several documents, Lists, JSON) and keep this network "
        "namespace's iptables rules in step with it. SIGTERM and Ctrl-C end it and leave the rules in place.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(
            _Example("ferrule run --manifests ./manifests", "follow the folder until a signal"),
            _Example(
                "ferrule run --manifests ./manifests --once",
                "program it once; exit 0 only if everything is in the kernel",
            ),
            _Example(
                "ferrule run --manifests . --config config.conf --backend legacy",
                "with kube-proxy's own configuration file",
            ),
        ),
    )
    run.add_argument(
        "--manifests",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder (or file) with Services, EndpointSlices and our Node",
    )
    _common(run)
    run.add_argument(
        "--once", action="store_true", help="one sync, then end: 0 when everything is in the kernel, 1 otherwise"
    )
    run.add_argument(
        "--backend", choices=("nft", "legacy"), help="iptables backend (default: the one kubelet uses, else nft)"
    )
    run.add_argument(
        "-v",
        "--v",
        dest="verbosity",
        metavar="N",
        type=int,
        default=None,
        help="log verbosity; 2 names every chain written",
    )
    run.set_defaults(call=_run)


def _render_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    render = commands.add_parser(
        "render",
        allow_abbrev=False,
        help="print the restore text for manifests",
        description="Print what `iptables-restore --noflush` would be given on a fresh node. Needs no root and no "
        "kernel. Bad input is reported on stderr and costs nobody else anything; the exit code is 1 if there was any.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(
            _Example(
                "ferrule render --manifests examples/shop --family ipv4",
                "one family, ready for iptables-restore --noflush",
            ),
            _Example(
                "kubectl get svc,endpointslices -A -o yaml | ferrule render --manifests -",
                "what would a live cluster's rules be?",
            ),
        ),
    )
    render.add_argument(
        "--manifests", metavar="PATH", nargs="+", required=True, help="files, folders, or - for standard input"
    )
    _common(render)
    render.add_argument("--family", choices=("ipv4", "ipv6"), help="one family only (default: both, IPv4 first)")
    render.set_defaults(call=_render, verbosity=None)


def _cleanup_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    clean = commands.add_parser(
        "cleanup",
        allow_abbrev=False,
        help="remove every rule and chain of ours",
        description="Remove what ferrule or kube-proxy wrote, in both backends and both families. Foreign chains and "
        "kubelet's stay. Goes on after errors and lists them all; exit code 1 if there were any.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(_Example("ferrule cleanup", "after stopping ferrule for good")),
    )
    clean.set_defaults(call=_cleanup)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="KubeProxyConfiguration (kube-proxy's own file)")
    parser.add_argument(
        "--hostname-override", metavar="NAME", default="", help="this node's name (default: the host's)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 done, 1 failed with a reason on stderr, 2 wrong arguments, 130 interrupted."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        return _version(arguments)
    if arguments.command is None:
        parser.error("a command is needed: run, render, cleanup or version")
    try:
        code: int = arguments.call(arguments)
    except (FerruleError, ValueError) as error:
        # ValueError: an option that only the engine could judge (`_engine.InputError`).
        print(f"ferrule: {_advice(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell counts it: 128 + SIGINT
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return code


def _advice(error: Exception) -> str:
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        return f"{len(error.problems)} problems in the configuration\n  " + "\n  ".join(error.problems)
    if isinstance(error, DataplaneError):
        if error.kind is FailureKind.MISSING:
            return f"{error.stderr or error}: install iptables (Debian: apt-get install iptables)"
        if error.kind is FailureKind.PERMISSION:
            return f"no right to change rules here (run as root, or with CAP_NET_ADMIN): {error}"
    return str(error)


def _settings(path: Path | None) -> Settings:
    from ferrule.config import Settings as Defaults  # noqa: PLC0415
    from ferrule.config import load_config  # noqa: PLC0415

    return Defaults() if path is None else load_config(path)


def _run(arguments: argparse.Namespace) -> int:
    from ferrule.daemon import DaemonOptions, run  # noqa: PLC0415
    from ferrule.observe.logs import set_up  # noqa: PLC0415
    from ferrule.types import Backend  # noqa: PLC0415

    settings = _settings(arguments.config)
    verbosity = settings.logging.verbosity if arguments.verbosity is None else arguments.verbosity
    set_up(verbosity, as_json=settings.logging.format == "json")
    return run(
        DaemonOptions(
            manifests=arguments.manifests,
            settings=settings,
            hostname_override=arguments.hostname_override,
            once=arguments.once,
            backend=None if arguments.backend is None else Backend(arguments.backend),
        )
    )


def _render(arguments: argparse.Namespace) -> int:
    from ferrule.daemon import DaemonOptions, node_name  # noqa: PLC0415
    from ferrule.render import render, require_families  # noqa: PLC0415

    settings = _settings(arguments.config)
    name = node_name(DaemonOptions(Path(), settings, arguments.hostname_override))
    rendered = render(arguments.manifests, settings, name, require_families(arguments.family))
    for family, text in rendered.texts.items():
        if len(rendered.texts) > 1:
            sys.stdout.write(f"# {'iptables' if family == 'ipv4' else 'ip6tables'}-restore --noflush\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
    sys.stdout.flush()
    for complaint in rendered.complaints:
        print(f"ferrule: {complaint}", file=sys.stderr)
    for p in rendered.problems:
        print(f"ferrule: {p.object}: {p.field}: {p.value!r} {p.reason}", file=sys.stderr)
    return 1 if rendered.complaints or rendered.problems else 0


def _cleanup(_: argparse.Namespace) -> int:
    from ferrule.cleanup import cleanup  # noqa: PLC0415
    from ferrule.dataplane.process import Runner  # noqa: PLC0415

    report = asyncio.run(cleanup(Runner()))
    for r in report.removed:
        print(f"{r.backend.value} {r.family} {r.table}: removed {r.chains} chains and {r.jumps} jumps to them")
    if not report.removed and not report.problems:
        print("nothing of ours was there")
    for problem in report.problems:
        print(f"ferrule: {problem}", file=sys.stderr)
    return 1 if report.problems else 0


def _version(_: argparse.Namespace) -> int:
    from ferrule._engine import build_info  # noqa: PLC0415

    info = build_info()
    print(f"ferrule {info['version']} ({info['profile']}, {info['target']}, {info['rustc']})")
    return 0
