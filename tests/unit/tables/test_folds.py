"""Folds: each block counts once, whatever is repeated, and whatever a crash lost."""

import collections

import msgspec

from hypothesis import given
from hypothesis import strategies as st

from streamapp.protocol.messages import Heartbeat
from streamapp.protocol.presence import Presence
from streamapp.tables import folds, rows
from tests.frames import FILE_ID
from tests.unit.rows import BLOCKS, NUMBERS, Tables, ack_of


STEPS = st.lists(
    st.tuples(
        st.sampled_from(NUMBERS),
        st.sampled_from(["persisted", "persisted", "persisted", "rejected", "lost"]),
        st.sampled_from([None, None, "files", "block_map"]),
    ),
    min_size=1,
    max_size=30,
)


@given(STEPS)
def test_counts(steps):
    """In any order, with repetitions and crashes, bits and counts agree."""
    tables, expected = Tables(), set()
    tables.fold(ack_of(0))
    expected.add(0)
    for block, outcome, torn in steps:
        tables.fold(ack_of(block, outcome), torn=torn)
        expected = {"persisted": expected | {block}, "lost": expected - {block}}.get(
            outcome, expected
        )

        assert len(expected) == tables.row().persisted_blocks
        last_is_short = 3 if BLOCKS - 1 in expected else 0
        assert 10 * len(expected) - last_is_short == tables.row().persisted_bytes
    assert expected == tables.persisted()


def test_row_that_is_there():
    """An unchanged row is written again: its changelog may not have it."""
    tables = Tables()
    tables.fold(ack_of(0))
    written = []

    class Noting(dict):
        def __setitem__(self, key, value):
            written.append(key)
            super().__setitem__(key, value)

    tables.files, tables.block_map = Noting(tables.files), Noting(tables.block_map)
    tables.fold(ack_of(0))

    assert [f"{FILE_ID}:0".encode(), FILE_ID.encode()] == written


def test_other_file():
    """An acknowledgement that gives the file another size changes neither table."""
    tables = Tables()
    tables.fold(ack_of(0))
    before = (dict(tables.files), dict(tables.block_map))
    tables.fold(ack_of(1, file_size=7))
    tables.fold(ack_of(1, blocks=2))

    assert before == (tables.files, tables.block_map)


def test_damaged_row(caplog):
    """A damaged row is replaced: otherwise the worker would end again after each restart."""
    tables = Tables()
    tables.fold(ack_of(0))
    tables.files[FILE_ID.encode()] = b"{"
    tables.fold(ack_of(1))

    assert {0, 1} == tables.persisted()
    assert 2 == tables.row().persisted_blocks
    assert f"key {FILE_ID.encode()!r}" in caplog.text


def test_row_stays_small():
    """The row of the largest file takes 5 bytes for each 1,024 blocks."""
    counts = (rows.RUN_BLOCKS,) * 1024
    row = msgspec.structs.replace(rows.FileRow(), blocks=1 << 20, run_counts=counts)

    assert row.is_complete
    assert len(rows.encode(row)) < 5 * 1024 + 100


def test_heartbeats(monkeypatch):
    """A machine's row has the time when its heartbeat was received, by this worker's clock."""
    table, now = collections.UserDict(), [1_000_000.0]
    monkeypatch.setattr(folds, "machines", table)
    monkeypatch.setattr(folds.time, "time", lambda: now[0])
    for _ in range(2):
        now[0] += 3.0
        beat = Heartbeat(machine="m", group="g", state="running", at=now[0] - 86_400.0)
        folds.fold_status(beat)
    row = rows.decode(table[b"m"], Presence)

    assert (beat, now[0], -86_400.0) == (row.heartbeat, row.received_at, row.ahead)
