"""The command line. Heavy imports are inside the commands, so that `--help` is fast.

`run` accepts kube-proxy's flags in kube-proxy's syntax: `pflag` has the syntax, `values` the types, `flags` the table,
`settings` the precedence of flags and file, `run` the actions. The other commands are not in kube-proxy and use
argparse.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ferrule.cli.pflag import FlagError
from ferrule.cli.stderr import complain
from ferrule.errors import ConfigError, DataplaneError, FailureKind, FerruleError
from ferrule.process.shutdown import Shutdown, leave

if TYPE_CHECKING:
    from ferrule.config.schema import Settings


@dataclass(frozen=True, slots=True)
class _Example:
    command: str
    meaning: str


def _epilog(*examples: _Example) -> str:
    return "examples:\n" + "\n".join(f"  {e.command}\n      {e.meaning}" for e in examples)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="ferrule",
        allow_abbrev=False,
        description="Kubernetes Service proxy: keeps a node's iptables rules such that Services reach their Pods.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(
            _Example(
                "ferrule render --manifests examples/shop", "print the rules for a folder of manifests; needs no rights"
            ),
            _Example("ferrule run --manifests /etc/ferrule/manifests", "keep the kernel in sync with that folder"),
        ),
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", add_help=False, help="program the kernel and keep it in sync, with kube-proxy's flags")
    _render_parser(commands)
    _cleanup_parser(commands)
    version = commands.add_parser(
        "version",
        allow_abbrev=False,
        help="print version and build",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(_Example("ferrule version", "ferrule 0.2.0 (release, …)")),
    )
    version.set_defaults(call=_version)
    return parser


def _render_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    render = commands.add_parser(
        "render",
        allow_abbrev=False,
        help="print the restore text for manifests",
        description="Print the input of `iptables-restore --noflush` for a fresh node. Needs no root and no "
        "kernel. Invalid input is reported on stderr and affects no other object; the exit code is 1 if there was any.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(
            _Example(
                "ferrule render --manifests examples/shop --family ipv4",
                "one family, ready for iptables-restore --noflush",
            ),
            _Example(
                "kubectl get svc,endpointslices,nodes -A -o json |\n"
                "    ferrule render --manifests - --hostname-override NODE",
                "what would a live cluster's rules be?",
            ),
        ),
    )
    render.add_argument(
        "--manifests", metavar="PATH", nargs="+", required=True, help="files, folders, or - for standard input"
    )
    _common(render)
    render.add_argument("--family", choices=("ipv4", "ipv6"), help="one family only (default: both, IPv4 first)")
    render.set_defaults(call=_render)


def _cleanup_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    clean = commands.add_parser(
        "cleanup",
        allow_abbrev=False,
        help="remove every rule and chain of ferrule",
        description="Remove what ferrule or kube-proxy wrote, in both backends and both families. Foreign chains and "
        "kubelet's stay. Continues after errors and lists them all; exit code 1 if there were any.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(_Example("ferrule cleanup", "after stopping ferrule permanently")),
    )
    clean.set_defaults(call=_cleanup)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="KubeProxyConfiguration (kube-proxy's own file)")
    parser.add_argument(
        "--hostname-override", metavar="NAME", default="", help="this node's name (default: the host's)"
    )


def program() -> NoReturn:
    """Runs `main` and ends the process without waiting for worker threads, one of which may be in a long write."""
    leave(main())


def main(argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Runs one command. `program` is the name it was started under.

    Exit codes: 0 done, 1 failed with a reason on stderr, 2 wrong arguments of a command other than run, 128 and the
    signal's number when a signal ended it before its work was complete."""
    words = sys.argv[1:] if argv is None else list(argv)
    if Path(program or sys.argv[0]).name == "kube-proxy":
        words.insert(0, "run")
    try:
        return _command(words)
    except FlagError as error:
        complain(str(error), "See 'ferrule run --help'.")
        return 1
    except (FerruleError, ValueError) as error:
        # ValueError: an option that only the engine could judge (`_engine.InputError`).
        complain(*_advice(error).split("\n"))
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell counts it: 128 + SIGINT
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _command(words: list[str]) -> int:
    if words[:1] == ["run"]:
        from ferrule.cli.run import run  # noqa: PLC0415

        return run(words[1:])
    parser = build_parser()
    arguments = parser.parse_args(words)
    if arguments.version:
        return _version(arguments)
    if arguments.command is None:
        parser.error("a command is needed: run, render, cleanup or version")
    code: int = arguments.call(arguments)
    return code


def _advice(error: Exception) -> str:
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        return f"{len(error.problems)} problems in the configuration\n  " + "\n  ".join(error.problems)
    if isinstance(error, DataplaneError):
        if error.kind is FailureKind.MISSING:
            return f"{error.stderr or error}: install iptables (Debian: apt-get install iptables)"
        if error.kind is FailureKind.PERMISSION:
            rights = "run as root, or with CAP_NET_ADMIN, and CAP_NET_RAW for the legacy backend"
            return f"no permission to change rules here ({rights}): {error}"
    return str(error)


def _settings(path: Path | None) -> Settings:
    from ferrule.config import Settings as Defaults  # noqa: PLC0415
    from ferrule.config import load_config  # noqa: PLC0415

    return Defaults() if path is None else load_config(path)


def _render(arguments: argparse.Namespace) -> int:
    from ferrule.daemon.options import node_name  # noqa: PLC0415
    from ferrule.render import render, require_families  # noqa: PLC0415

    settings = _settings(arguments.config)
    name = node_name(settings, arguments.hostname_override)
    rendered = render(arguments.manifests, settings, name, require_families(arguments.family))
    for family, text in rendered.texts.items():
        if len(rendered.texts) > 1:
            sys.stdout.write(f"# {'iptables' if family == 'ipv4' else 'ip6tables'}-restore --noflush\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
    sys.stdout.flush()
    for warning in rendered.warnings:
        complain(f"warning: {warning}")
    for complaint in rendered.complaints:
        complain(str(complaint))
    for p in rendered.problems:
        complain(f"{p.object}: {p.field}: {p.value!r} {p.reason}")
    return 1 if rendered.complaints or rendered.problems else 0


def _cleanup(_: argparse.Namespace) -> int:
    from ferrule.cli.cleanup import cleanup  # noqa: PLC0415

    with Shutdown():
        return cleanup()


def _version(_: argparse.Namespace) -> int:
    from ferrule.cli.version import version  # noqa: PLC0415

    print(version())
    return 0
