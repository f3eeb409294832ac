"""`ferrule run --help`: groups that each fit a screen, examples first."""

from __future__ import annotations

import textwrap

from ferrule.cli.flags import GROUPS
from ferrule.cli.pflag import Flag

WIDTH = 100
_COLUMN = 50

_ABOUT = (
    "Keep this node's Service rules in sync with the cluster, as kube-proxy does in iptables mode: same flags, same "
    "configuration file, same rules. Started under the name kube-proxy, the program is this command. SIGTERM and "
    "Ctrl-C end it and leave the rules in place."
)

_EXAMPLES = (
    (
        "ferrule run --config=/var/lib/kube-proxy/config.conf --hostname-override=$NODE_NAME",
        "as a kubeadm cluster starts kube-proxy",
    ),
    ("ferrule run --kubeconfig=/etc/ferrule/kubeconfig --cluster-cidr=10.244.0.0/16 -v=2", "without a file"),
    (
        "ferrule run --manifests ./manifests --once",
        "no cluster: program a folder, exit 0 if all of it is in the kernel",
    ),
    ("ferrule run --write-config-to=config.yaml", "a file with every field and its default"),
    ("ferrule run --cleanup", "after stopping permanently: remove every rule of ferrule"),
)


def run_help() -> str:
    """Returns the whole text."""
    parts = ["usage: ferrule run [flags]\n", textwrap.fill(_ABOUT, WIDTH), "\nexamples:"]
    parts += [f"  {command}\n      {meaning}" for command, meaning in _EXAMPLES]
    parts += [
        "\nFlags are written as for kube-proxy: --flag=value or --flag value, --switch or --switch=false,\n"
        "durations as 1m30s, lists with commas. (Defaults stand in brackets.)"
    ]
    for title, flags in GROUPS.items():
        parts.append(f"\n{title}:")
        parts += [_line(flag) for flag in flags]
    parts.append(f"\nHelp:\n{'  -h, --help':{_COLUMN}}this text")
    return "\n".join(parts) + "\n"


def _line(flag: Flag) -> str:
    name = f"{flag.shown_name:>6}" if flag.short else f"    {flag.shown_name}"
    head = f"  {name} {'' if flag.kind.alone else flag.kind.name}".rstrip()
    default = f" ({flag.default})" if flag.default and not flag.deprecated else ""
    if len(head) >= _COLUMN - 1:
        return f"{head}\n{'':{_COLUMN}}{flag.help}{default}"
    return f"{head:{_COLUMN}}{flag.help}{default}"
