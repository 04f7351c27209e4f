"""The status page: what is under way and what matters, in any width."""

import io

import pytest

from rich.cells import cell_len
from rich.console import Console

from streamapp.ui import status_page
from tests.unit.view_bodies import FILE, MACHINE, NOTHING


LONG = "logs/2026/11/24/a folder with a long name/app.log"
DELIVERY = {
    "source": "s1",
    "run_at": 1_700_000_000.0,
    "files": 9,
    "complete": 7,
    "failed": 1,
    "bytes": 2048,
    "persisted_bytes": 1024,
}
NOISY = {"reason": "", "failed_blocks": []}


def drawn(answer, width):
    """Return the lines of *answer*, as wide as they are."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    console.print(status_page.page(answer, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "cells", "cut"),
    [
        ("short", 5, "short"),
        ("logs/2026/11/24/app.log", 20, "logs/2026/1…/app.log"),
        ("a/very-long-file-name-without-end.log", 20, "a/very-lon…t-end.log"),
        ("日本語/報告書/とても長い.csv", 20, "日本語/報告…長い.csv"),
        ("abcdef", 3, "a…f"),
    ],
)
def test_cut_middle(text, cells, cut):
    """A long name keeps its beginning and its end, and is never wider than its column."""
    assert cut == status_page.cut_middle(text, cells)
    assert cell_len(cut) <= cells


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("state", ["arriving", "announced", "complete"])
def test_one_line_for_a_file(width, state):
    """A file is one line, however long its name; the columns that matter are there."""
    files = [
        FILE | NOISY | {"name": LONG * times, "state": state, "blocks": 987} for times in (1, 3)
    ]
    lines = drawn(NOTHING | {"files": files, "matching": 2, "machines": [MACHINE]}, width)
    found = [line for line in lines if line.endswith(state)]

    assert 2 == len(found)
    assert all(cell_len(line) <= width for line in lines)
    assert all("/app.log" in line and "source-1" in line for line in found)
    assert ("1/987" in found[0]) == (width >= status_page.NARROW)
    assert "5 B/s" in found[0]


@pytest.mark.parametrize(("percent", "said"), [(99.9, "99 %"), (100.0, "100 %"), (0.0, "0 %")])
def test_done_is_all(percent, said):
    """Nothing is at 100 % before all of it is."""
    file = FILE | NOISY | {"percent": percent}
    answer = NOTHING | {"files": [file], "matching": 1, "machines": []}

    assert any(f" {said} " in line for line in drawn(answer, 80))


def test_reasons_have_room():
    """Where the terminal is narrow a reason has lines of its own."""
    file = FILE | {"name": "a", "reason": "no right to read it"}
    answer = NOTHING | {"files": [file], "matching": 1, "machines": []}

    assert any("failed: a: no right to read it; block 1" in line for line in drawn(answer, 80))
    assert any("failed; no right to read it; block 1" in line for line in drawn(answer, 160))


def test_no_rate_no_column():
    """Where nothing has a rate there is no column for it."""
    answer = NOTHING | {"files": [FILE | {"rate": 0.0}], "matching": 1, "machines": []}

    assert not any("rate" in line for line in drawn(answer, 160) if "file" in line)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([DELIVERY], [DELIVERY]),
        ([DELIVERY | {"failed": 2}, DELIVERY | {"source": "s2"}], [DELIVERY | {"source": "s2"}]),
        ([DELIVERY | {"failed": 2}, DELIVERY | {"complete": 8}], [DELIVERY | {"failed": 2}]),
        ([DELIVERY] * 9, [DELIVERY] * 3),
    ],
)
def test_deliveries(found, expected):
    """Those under way are shown, not too many; when all are over the newest one."""
    assert expected == status_page.deliveries(NOTHING | {"deliveries": found})


def test_headline():
    """This delivery stands apart from all history, with when it began."""
    answer = NOTHING | {
        "deliveries": [DELIVERY],
        "totals": {"files": 105_000, "complete": 35_102, "bytes": 0, "persisted_bytes": 0},
    }
    delivery, everything = (text.plain for text in status_page.first_lines(answer))

    assert delivery.startswith("delivery of s1 since 2023-11-1")
    assert delivery.endswith(": 7 of 9 files complete, 1.0 KiB of 2.0 KiB, 1 failed")
    assert "all files: 35102 of 105000 files complete, 0 B of 0 B" == everything


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        ({"state": "stopped"}, "stopped"),
        ({"silent": True, "silent_seconds": 12.0}, "silent for 12.0 s"),
        ({"up": False, "silent_seconds": 90.0}, "silent for 1 min 30 s"),
        ({"reason": "", "state": "running", "rejected": 0}, "running; idle: more machines than"),
        ({"partitions": [1], "clock_ahead": 86400.0}, "its clock is 24 h 00 min ahead of ours"),
        ({"partitions": [1], "clock_ahead": -7.0}, "its clock is 7.0 s behind ours"),
        ({"quarantined": 1}, "1 block rejected; 1 record set aside"),
    ],
)
def test_machine(machine, text):
    """What a machine does, or that it is silent, stands behind its name."""
    lines = drawn(NOTHING | {"machines": [MACHINE | machine]}, 200)

    assert any(text in line for line in lines), lines


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        ({"kept_blocks": 3512, "kept_bytes": 3 << 30}, "3512 blocks, 3.0 GiB"),
        ({}, "3 blocks, 30 B"),  # an older worker counts from its start
    ],
)
def test_kept(machine, text):
    """What lies on a machine's disks survives its restart."""
    lines = drawn(NOTHING | {"machines": [MACHINE | machine]}, 200)

    assert any(text in line for line in lines), lines
