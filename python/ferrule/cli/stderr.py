"""Messages for people, on standard error."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    r"""Returns the text with everything that a terminal would interpret written as an escape sequence, such as `\x1b`.

    Object names and field values come from files that anyone may have written: a raw escape sequence could hide other
    complaints or change the terminal's state.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def complain(text: str, *more: str) -> None:
    """Prints `ferrule: TEXT` and further lines, each made printable."""
    for line in (f"ferrule: {text}", *more):
        print(printable(line), file=sys.stderr)
