"""The log: equal lines are counted, and no text in it moves a cursor or looks like another line."""

import io
import logging

import pytest

from streamapp.worker import logs
from tests.fakes import ManualClock


@pytest.fixture
def clock():
    """The clock of the log."""
    return ManualClock()


@pytest.fixture
def log(clock):
    """Return a function that logs, and what was written, by line."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logs.make_readable(handler, fold=False)
    counting = logs.RepeatFilter(handler, clock)
    handler.addFilter(counting)

    def write(
        text, *args, name="streamapp.receiver.partition", line=1, level=logging.WARNING, error=None
    ):
        info = error and (type(error), error, error.__traceback__)
        handler.handle(logging.LogRecord(name, level, f"{name}.py", line, text, args, info))

    write.lines = lambda: stream.getvalue().splitlines()
    write.flush = counting.flush
    write.windows = counting._windows
    yield write
    if counting._timer:
        counting._timer.cancel()


def test_library_repeats_itself(log, clock):
    """The same place of a library is heard once in a while, another place at once."""
    log("cannot connect to 1", name="aiokafka.conn")
    log("cannot connect to 2", name="aiokafka.conn")
    log("another", name="aiokafka.conn", line=2)
    assert ["cannot connect to 1", "another"] == log.lines()

    clock.now = logs.LIBRARY_SECONDS
    log("cannot connect to 3", name="aiokafka.conn")
    assert {"cannot connect to 3", "… and 1 more like it: cannot connect to 1"} == {
        *log.lines()[2:]
    }


def test_equal_lines(log, clock):
    """The first of 3,210 equal lines is written, and then how many more there were."""
    for _ in range(3210):
        log("passed over %s", "a")
    log("passed over %s", "b")
    assert ["passed over a", "passed over b"] == log.lines()

    clock.now = logs.EQUAL_SECONDS
    log("another", line=2)
    assert {"another", "… and 3,209 more like it: passed over a"} == {*log.lines()[2:]}


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        (logging.INFO, 50),
        (logging.WARNING, logs.WARNINGS),
        (logging.ERROR, 50),
        (logging.CRITICAL, 50),
    ],
)
def test_lines_of_one_kind(log, level, lines):
    """Warnings of one kind are bounded; lines about files and errors are all logged."""
    for number in range(50):
        log("record %d", number, level=level)
    assert lines == len(log.lines())

    log.flush()
    counts = [line for line in log.lines() if "more like it" in line]
    assert ([] if lines == 50 else [f"… and {50 - lines} more like it: record 0"]) == counts


def test_last_words(log):
    """The last line of a worker is never only counted."""
    for _ in range(3):
        log("the worker ends", level=logging.CRITICAL)

    assert 3 == len(log.lines())


def test_counts_come_by_themselves(log, clock):
    """A count is written when its time is over, also when nothing else is logged."""
    log("a")
    log("a")
    counting = log.flush.__self__
    timer = counting._timer
    assert timer.is_alive()
    assert logs.EQUAL_SECONDS == timer.interval
    clock.now = logs.EQUAL_SECONDS
    timer.cancel()
    timer.function()

    assert ["a", "… and 1 more like it: a"] == log.lines()
    assert counting._timer is None


def test_bounded(log):
    """A log of a million different lines needs no memory of them."""
    for number in range(3 * logs.MAX_REMEMBERED):
        log("record %d", number, level=logging.ERROR)

    assert len(log.windows) < logs.MAX_REMEMBERED
    assert 3 * logs.MAX_REMEMBERED == len(log.lines())


@pytest.mark.parametrize(
    ("text", "args", "written"),
    [
        ("file %s", ("a\x1b[2J\nb\r\x00\x9b\u202ec",), r"file a\x1b[2J\nb\r\x00\x9b\u202ec"),
        ("a\nb\x07", (), r"a\nb\x07"),
        ("Müller & Søn: 報告書 %d", (7,), "Müller & Søn: 報告書 7"),
        ("%r", (b"\xff\x1b",), r"b'\xff\x1b'"),
        ("ours:\n%s", ("x\ny",), "ours:\n    x\n    y"),
    ],
)
def test_escaped(log, text, args, written):
    """Control characters are escaped; no argument begins a line."""
    log(text, *args)

    assert written == "\n".join(log.lines())


def test_traceback(log):
    """A traceback keeps its lines, marked as continued, and what it quotes is escaped."""
    try:
        raise ValueError("a\x1b[2J\n[2026-01-01] [INFO] forged")  # noqa: TRY301
    except ValueError as error:
        log("cannot", error=error)

    lines = log.lines()
    assert "cannot" == lines[0]
    assert len(lines) > 4
    assert all(line.startswith("    ") for line in lines[1:])
    assert r"    ValueError: a\x1b[2J" in lines


def test_broken_line(log, monkeypatch):
    """A line whose arguments do not fit ends nobody."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log("%d", "a")

    assert [] == log.lines()


def test_set_up_once():
    """Setting the log up twice changes nothing more."""
    handler = logging.NullHandler()
    for _ in range(2):
        logs.make_readable(handler)

    assert 1 == len(handler.filters)
    assert not isinstance(handler.formatter._inner, logs.ReadableFormatter)
