"""Tests klog's text and JSON formats, verbosity, --vmodule, and output streams."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule.observe.logs import (
    JsonFormatter,
    KlogFormatter,
    LogOptions,
    SplitHandler,
    VerbosityFilter,
    kv,
    matches,
    set_up,
    verbose,
    verbosity_of,
)
from ferrule.testing.waiting import eventually

CHARACTERS = st.characters(exclude_categories=())
"""Lone surrogates too: the name of a file need not be UTF-8."""


def record(
    message: str, level: int = logging.WARNING, /, path: str = "/a/b/file.py", **pairs: object
) -> logging.LogRecord:
    made = logging.LogRecord("x", level, path, 7, message, (), None)
    made.__dict__.update(kv(**pairs))
    return made


@pytest.fixture
def quiet_afterwards() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("ferrule")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(False)


# ---------------------------------------------------------------------- what a line looks like


def test_log_lines_cannot_be_forged() -> None:
    line = KlogFormatter().format(record("Bad input", object='web"\nE0101 forged', n=3, ok=True, names=["a", "b"]))
    assert "\n" not in line
    assert line.startswith("W")
    assert 'file.py:7] "Bad input" object="web\\"\\nE0101 forged" n=3 ok=true names=["a","b"]' in line
    parsed = orjson.loads(JsonFormatter().format(record("Bad input", object="web\n")))
    assert (parsed["msg"], parsed["object"], parsed["caller"]) == ("Bad input", "web\n", "b/file.py:7")


@given(st.text(CHARACTERS), st.text(CHARACTERS))
def test_whatever_is_logged_is_one_line(message: str, value: str) -> None:
    made = record("%s", logging.ERROR, value=value)
    made.args = (message,)
    for formatter in (KlogFormatter(), JsonFormatter()):
        line = formatter.format(made)
        assert "\n" not in line
        assert "\x1b" not in line
        assert line.isprintable() or isinstance(formatter, JsonFormatter)


@pytest.mark.parametrize(
    ("level", "letter"),
    [
        (logging.CRITICAL, "F"),
        (logging.ERROR, "E"),
        (logging.WARNING, "W"),
        (logging.INFO, "I"),
        (verbose(1), "I"),
        (verbose(9), "I"),
    ],
)
def test_letters(level: int, letter: str) -> None:
    assert KlogFormatter().format(record("x", level))[0] == letter


def test_json_has_stocks_keys_in_stocks_order() -> None:
    """Recorded: {"ts":1795471110631.315,"caller":"app/server.go:256","msg":"…","err":"…"}; `v` unless an error."""
    bad = record("It failed", logging.ERROR, zone="a", err="no route")
    bad.created = 1795471110.631315
    assert JsonFormatter().format(bad) == (
        '{"ts":1795471110631.315,"caller":"b/file.py:7","msg":"It failed","err":"no route","zone":"a"}'
    )
    for level, v in ((logging.WARNING, 0), (logging.INFO, 0), (verbose(1), 1), (logging.DEBUG, 2), (verbose(5), 5)):
        line = orjson.loads(JsonFormatter().format(record("x", level, err="e")))
        assert list(line) == ["ts", "caller", "msg", "v", "err"]
        assert line["v"] == v
    assert "err" not in orjson.loads(JsonFormatter().format(record("x", logging.ERROR)))


def test_a_pair_does_not_overwrite_the_line() -> None:
    line = orjson.loads(JsonFormatter().format(record("real", msg="forged", ts=0)))
    assert (line["msg"], line["msg_"], line["ts_"]) == ("real", "forged", 0)


def test_exceptions_are_told_with_their_place() -> None:
    made = record("x", logging.ERROR)
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = orjson.loads(JsonFormatter().format(made))
    assert line["err"] == "why"
    assert "test_logs.py" in line["stacktrace"]
    assert "ValueError: why" in KlogFormatter().format(made)


# ---------------------------------------------------------------------- which lines


def test_levels_are_klogs_and_back() -> None:
    assert [verbosity_of(verbose(n)) for n in range(12)] == list(range(12))
    assert verbose(2) == logging.DEBUG
    assert verbosity_of(logging.ERROR) == 0
    assert verbosity_of(verbose(1000)) >= 11
    assert all(verbose(n) > verbose(n + 1) for n in range(11))


@pytest.mark.parametrize(
    ("pattern", "yes"),
    [
        ("loop", True),
        ("l*p", True),
        ("l[no]op", True),
        ("?oop", True),
        ("sync/loop", True),
        ("sync/*", True),
        ("*/loop", True),
        ("ferrule/sync/loop", True),
        ("/x/ferrule/sync/loop", True),
        ("Loop", False),
        ("loo", False),
        ("sync", False),
        ("sync*", False),
        ("cli/loop", False),
        ("a/x/ferrule/sync/loop", False),
    ],
)
def test_vmodule_patterns(pattern: str, yes: bool) -> None:
    assert matches(pattern, "/x/ferrule/sync/loop") is yes


@pytest.mark.parametrize(
    ("path", "level", "shown"),
    [
        ("/f/loop.py", verbose(4), True),
        ("/f/loop.py", verbose(5), False),
        ("/f/other.py", verbose(1), True),
        ("/f/other.py", verbose(2), False),
        ("/f/calm.py", verbose(1), True),
        ("/f/other.py", logging.WARNING, True),
    ],
)
def test_vmodule_makes_single_files_louder_and_none_quieter(path: str, level: int, shown: bool) -> None:
    chosen = VerbosityFilter(1, [("loop", 4), ("l*", 9), ("calm", 0)])
    assert chosen.filter(record("x", level, path)) is shown


@pytest.mark.parametrize(
    ("options", "ours", "theirs"),
    [
        (LogOptions(), 0, logging.WARNING),
        (LogOptions(2), 2, logging.WARNING),
        (LogOptions(4), 4, logging.INFO),
        (LogOptions(9), 9, logging.DEBUG),
        (LogOptions(vmodule=(("x", 5),)), 5, logging.INFO),
        (LogOptions(as_json=True, vmodule=(("x", 5),)), 0, logging.WARNING),
    ],
)
@pytest.mark.usefixtures("quiet_afterwards")
def test_set_up_listens_as_far_as_asked(options: LogOptions, ours: int, theirs: int) -> None:
    set_up(options)
    logger = logging.getLogger("ferrule.some.module")
    assert logger.isEnabledFor(verbose(ours))
    assert not logger.isEnabledFor(verbose(ours + 1))
    assert logging.getLogger("aiohttp").getEffectiveLevel() == theirs


@pytest.mark.usefixtures("quiet_afterwards")
def test_all_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogOptions(1, vmodule=(("test_logs", 3),)))
    logger = logging.getLogger("ferrule.test")
    logger.log(verbose(3), "shown")
    logger.log(verbose(4), "not shown")
    logger.error("bad", extra=kv(err="e"))
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("] ")[1] for line in err.splitlines()] == ['"shown"', '"bad" err="e"']


# ---------------------------------------------------------------------- where lines go


@pytest.mark.parametrize(("as_json", "warnings_go_to"), [(False, "err"), (True, "out")])
@pytest.mark.usefixtures("quiet_afterwards")
def test_split_streams(as_json: bool, warnings_go_to: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogOptions(as_json=as_json, split_stream=True))
    logger = logging.getLogger("ferrule.test")
    logger.info("information")
    logger.warning("warning")
    logger.error("error")
    captured = capsys.readouterr()
    assert ("information" in captured.out, "information" in captured.err) == (True, False)
    assert ("error" in captured.out, "error" in captured.err) == (False, True)
    assert "warning" in getattr(captured, warnings_go_to)


def test_information_is_held_back_up_to_the_buffers_size() -> None:
    info, errors = io.StringIO(), io.StringIO()
    handler = SplitHandler(info, errors, error_level=logging.ERROR, buffer_bytes=20)
    for word in ("first", "second"):
        handler.handle(record(word, logging.INFO))
    assert info.getvalue() == ""
    handler.handle(record("a line that fills it", logging.INFO))
    assert info.getvalue().splitlines() == ["first", "second", "a line that fills it"]
    handler.handle(record("held", logging.INFO))
    assert "held" not in info.getvalue()
    handler.handle(record("bad", logging.ERROR))
    assert info.getvalue().endswith("held\n"), "what was said before an error is there before it"
    assert errors.getvalue() == "bad\n"
    handler.handle(record("late", logging.INFO))
    handler.flush()
    assert info.getvalue().endswith("late\n")


@pytest.mark.usefixtures("quiet_afterwards")
def test_what_is_held_is_written_after_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogOptions(split_stream=True, buffer_bytes=10_000, flush_seconds=0.01))
    logging.getLogger("ferrule.test").info("patience")
    said: list[str] = []

    def written() -> bool:
        said.append(capsys.readouterr().out)
        return "patience" in "".join(said)

    eventually(written)


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    errors = io.StringIO()
    handler = SplitHandler(Broken(), errors, error_level=logging.ERROR)
    assert handler.handle(record("x", logging.INFO))
    handler.handle(record("bad", logging.ERROR))
    assert errors.getvalue() == "bad\n", "the other stream is written as before"
