"""Parses a command line in the syntax of kube-proxy's parser (spf13/pflag). Pure.

`--flag=value`, `--flag value`, `-v=2`, `-v 2`, `-v2`; a flag with a default value of its own (`--cleanup`) never
consumes the next word; underscores in names count as hyphens; `--` ends the flags; flags and words may be mixed; the
last of a repeated flag counts, unless it is a list. argparse differs in all of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ferrule.cli.values import Kind
from ferrule.config.duration import quote
from ferrule.errors import InputError


class FlagError(InputError):
    """The command line is invalid. The messages are pflag's."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag, as data."""

    name: str
    kind: Kind
    default: str
    """The default as text, in the flag's own syntax; "" for the kind's zero value."""
    help: str
    path: str = ""
    """The field of `Settings` that it sets, in snake case with dots; "" if it is not a setting."""
    short: str = ""
    deprecated: str = ""
    """The replacement of a deprecated flag."""

    @property
    def default_value(self) -> Any:
        """The default, parsed."""
        return self.kind.parse(self.default, None) if self.default else self.kind.empty

    @property
    def shown_name(self) -> str:
        """The name in messages and in `--help`."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


@dataclass(slots=True)
class Parsed:
    """The parsed command line. `values` holds only flags that were set."""

    values: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    help: bool = False


def parse(argv: Sequence[str], flags: Mapping[str, Flag]) -> Parsed:
    """Parses flags. Raises `FlagError` for the first fault, as pflag does. Stops at --help without checking the
    rest."""
    shorts = {flag.short: flag for flag in flags.values() if flag.short}
    parsed = Parsed()
    rest = list(argv)
    while rest and not parsed.help:
        word = rest.pop(0)
        if word == "--":
            parsed.words += rest
            break
        if word.startswith("--"):
            _long(word, rest, flags, parsed)
        elif word.startswith("-") and word != "-":
            _short(word, rest, shorts, parsed)
        else:
            parsed.words.append(word)
    return parsed


def shown(parsed: Parsed, flags: Mapping[str, Flag]) -> dict[str, str]:
    """Returns every flag with its value as text: the one that was set, or the default."""
    return {
        name: flag.kind.show(parsed.values[name])
        if name in parsed.values
        else flag.default or flag.kind.show(flag.kind.empty)
        for name, flag in flags.items()
    }


def _long(word: str, rest: list[str], flags: Mapping[str, Flag], parsed: Parsed) -> None:
    name, equals, value = word[2:].partition("=")
    if not name or name[0] in "-=":
        raise FlagError(f"bad flag syntax: {_plain(word)}")
    name = name.replace("_", "-")
    flag = flags.get(name)
    if flag is None and name == "help":
        parsed.help = True
        return
    if flag is None:
        raise FlagError(f"unknown flag: {_plain(f'--{name}')}")
    if not equals:
        if flag.kind.alone:
            value = flag.kind.alone
        elif rest:
            value = rest.pop(0)
        else:
            raise FlagError(f"flag needs an argument: --{name}")
    _set(flag, value, parsed)


def _short(word: str, rest: list[str], shorts: Mapping[str, Flag], parsed: Parsed) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = shorts.get(letter)
        if flag is None and letter == "h":
            parsed.help = True
            return
        if flag is None:
            raise FlagError(f"unknown shorthand flag: {letter!r} in {_plain(word)}")
        if letters.startswith("=") and len(letters) > 1:
            value, letters = letters[1:], ""
        elif flag.kind.alone:
            value = flag.kind.alone
        elif letters:
            value, letters = letters, ""
        elif rest:
            value = rest.pop(0)
        else:
            raise FlagError(f"flag needs an argument: {letter!r} in {_plain(word)}")
        _set(flag, value, parsed)


def _set(flag: Flag, text: str, parsed: Parsed) -> None:
    try:
        parsed.values[flag.name] = flag.kind.parse(text, parsed.values.get(flag.name))
    except ValueError as error:
        raise FlagError(f'invalid argument {quote(text)} for "{flag.shown_name}" flag: {error}') from None


def _plain(text: str) -> str:
    """Returns the text as typed, quoted if it contains control characters."""
    return text if text.isprintable() else quote(text)
