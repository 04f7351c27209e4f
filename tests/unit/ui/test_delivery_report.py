"""What people and programs are shown of a delivery."""

import io
import itertools
import json
import re

import msgspec
import pytest

from streamapp.producer.events import (
    BlockFailed,
    BlockResent,
    FileEvent,
    Progress,
    Summary,
    Waiting,
)
from streamapp.producer.rate import WINDOW_SECONDS, RateMeter
from streamapp.protocol.filenames import printable
from streamapp.ui.delivery_report import (
    LINE_SECONDS,
    MAX_PROBLEM_LINES,
    BarReporter,
    JsonReporter,
    LineReporter,
    reporter,
)


PROGRESS = Progress(
    files=3,
    files_done=1,
    bytes=100 << 20,
    bytes_sent=50 << 20,
    bytes_persisted=25 << 20,
    rate=float(1 << 20),
    eta=75.0,
)
PROBLEM = FileEvent(name="evil\x1b[2J\u202egpj", state="changed", reason="it grew")
SUMMARY = Summary(
    files=3,
    delivered=1,
    sent=0,
    skipped=1,
    changed=1,
    unreadable=0,
    failed=0,
    blocks_sent=4,
    blocks_resent=1,
    bytes_sent=1 << 20,
    bytes_persisted=1 << 20,
    seconds=2.0,
    rate=float(1 << 19),
)
EVENTS = [
    PROGRESS,
    PROBLEM,
    Waiting(reason="nobody is up"),
    BlockResent(name="n", file_id="0" * 32, block=1, tries=1, reason="r"),
    BlockFailed(name="n", file_id="0" * 32, block=1, tries=5, reason="r"),
    SUMMARY,
]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        """It is."""
        return True


def test_json():
    """Each event is one line that says of which kind it is; nothing is left out."""
    stream = io.StringIO()
    report = reporter(as_json=True, stream=stream)
    for event in EVENTS:
        report(event)
    report.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert ["progress", "file", "waiting", "block_resent", "block_failed", "summary"] == [
        line["kind"] for line in lines
    ]
    assert PROBLEM.name == lines[1]["name"]


def test_what_suits_the_stream():
    """Terminals get bars, logs get lines, ``--json`` gets JSON."""
    assert [JsonReporter, BarReporter, LineReporter] == [
        type(reporter(as_json=as_json, stream=stream))
        for as_json, stream in [(True, Terminal()), (False, Terminal()), (False, io.StringIO())]
    ]


def test_lines():
    """Progress is a line every few seconds; important events are reported at once."""
    now = [0.0]
    stream = io.StringIO()
    report = LineReporter(stream, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, LINE_SECONDS - 0.1, LINE_SECONDS):
        report(PROGRESS)
    for event in EVENTS[1:]:
        report(event)

    progress = (
        "1 of 3 files; 50.0 MiB sent, 25.0 MiB of 100.0 MiB persisted (25 %), "
        "1.0 MiB/s, 1 min 15 s left"
    )
    summary = (
        "3 files: 1 delivered, 1 there already, 1 changed; 4 blocks sent, 1 of them again; "
        "1.0 MiB sent, 1.0 MiB persisted in 2.0 s, 512.0 KiB/s"
    )
    assert [
        progress,
        progress,
        r"changed: evil\x1b[2J\u202egpj: it grew",
        "waiting: nobody is up",
        "sending again: n, block 1, after 1 attempt: r",
        "given up: n, block 1, after 5 attempts: r",
        summary,
    ] == stream.getvalue().splitlines()


def test_sent_is_not_stored():
    """Files that only Kafka has are said to be there and not on disk; what is no file is listed."""
    stream = io.StringIO()
    report = LineReporter(stream)
    report(FileEvent(name="pipe", state="special", reason="a pipe, not a file"))
    report(msgspec.structs.replace(SUMMARY, delivered=0, sent=1, special=2))

    lines = stream.getvalue().splitlines()
    assert "not sent: pipe: a pipe, not a file" == lines[0]
    assert "3 files: 1 in Kafka, not yet on disk, 1 there already, 1 changed, 2 special" in lines[1]


def test_one_is_not_several():
    """A single file or block is said in the singular."""
    stream = io.StringIO()
    report = LineReporter(stream)
    report(msgspec.structs.replace(PROGRESS, files=1))
    report(msgspec.structs.replace(SUMMARY, files=1, skipped=0, changed=0, blocks_sent=1))

    progress, summary = stream.getvalue().splitlines()
    assert progress.startswith("1 of 1 file;")
    assert summary.startswith("1 file: 1 delivered; 1 block sent, 1 of them again")


def test_nobody_waits():
    """When nobody waits for it, nothing is said of what is persisted."""
    streams = [io.StringIO(), Terminal()]
    for stream in streams:
        report = reporter(as_json=False, stream=stream)
        report(msgspec.structs.replace(PROGRESS, waits=False))
        report.close()

    assert "1 of 3 files; 50.0 MiB of 100.0 MiB sent (50 %)" in streams[0].getvalue()
    assert not any("persisted" in stream.getvalue() for stream in streams)


def test_many_problems():
    """A hundred thousand problems are not a hundred thousand lines; the summary still comes."""
    stream = io.StringIO()
    report = LineReporter(stream)
    for _ in range(1000):
        report(PROBLEM)
    report(FileEvent(name="good", state="complete"))
    report(SUMMARY)
    lines = stream.getvalue().splitlines()

    assert MAX_PROBLEM_LINES + 2 == len(lines)
    assert "--json" in lines[-2]
    assert lines[-1].startswith("3 files")


def test_bars():
    """On a terminal both bars are shown, and nothing that a file's name could do to it."""
    stream = Terminal()
    report = reporter(as_json=False, stream=stream)
    for event in EVENTS:
        report(event)
    report.close()

    assert r"evil\x1b[2J\u202egpj" in stream.getvalue()
    assert "persisted" in stream.getvalue()
    assert "\u202e" not in stream.getvalue()


@pytest.mark.parametrize("columns", ["80", "120"])
def test_done_is_all(columns, monkeypatch):
    """Nothing is at 100 % before all of it is; all has room, and the files are those done."""
    monkeypatch.setenv("COLUMNS", columns)
    nearly = msgspec.structs.replace(
        PROGRESS, files=2000, files_done=617, bytes_sent=100 << 20, bytes_persisted=(100 << 20) - 1
    )
    stream = Terminal()
    report = reporter(as_json=False, stream=stream)
    report(nearly)
    report.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    sent, persisted = (line.strip() for line in shown.splitlines()[-2:])

    assert sent.endswith("100% 100.0 MiB of 100.0 MiB, 617 of 2000 files done")
    assert persisted.startswith("persisted ")
    assert persisted.endswith(" 99% 100.0 MiB of 100.0 MiB, 1.0 MiB/s, 1 min 15 s left")


def test_waiting():
    """As long as the delivery waits, the line and the bars have the reason in them."""
    waiting = msgspec.structs.replace(PROGRESS, waiting="w1 holds: disk full", eta=None)
    lines, bars = io.StringIO(), Terminal()
    for stream, event in itertools.product((lines, bars), (waiting, PROGRESS)):
        report = reporter(as_json=False, stream=stream)
        report(event)
        report.close()

    assert "1.0 MiB/s, time left unknown; waiting: w1 holds: disk full\n" in lines.getvalue()
    assert 1 == lines.getvalue().count("waiting")
    assert "waiting: w1 holds: disk full" in bars.getvalue()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("plain name.txt", "plain name.txt"),
        ("Grüße/日本.csv", "Grüße/日本.csv"),
        ("new\nline", r"new\nline"),
        ("bell\x07", r"bell\x07"),
        ("\u2028\u2066", r"\u2028\u2066"),
    ],
)
def test_names(name, safe):
    """Letters of any language are shown as they are, what moves the cursor is not."""
    assert safe == printable(name)


def test_meter():
    """The rate is that of the last half minute, the time left what the rest takes at it."""
    meter = RateMeter()
    assert (0.0, None) == (meter.rate, meter.seconds_for(10))

    for second in range(100):
        meter.note(float(second), 1000 if second < 50 else 1000 + 10 * (second - 50))

    assert 10.0 == pytest.approx(meter.rate)
    assert 5.0 == pytest.approx(meter.seconds_for(50))

    meter.note(100.0 + 2 * WINDOW_SECONDS, 2000)
    assert meter.seconds_for(50) is None
