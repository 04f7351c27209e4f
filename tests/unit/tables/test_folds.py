"""Progress: each block counts once, whatever is repeated and whatever a crash tore apart."""

import collections

import msgspec
import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.protocol.messages import BlockAck, Heartbeat
from streamapp.protocol.presence import Presence
from streamapp.tables import folds, rows
from tests.unit.frames import FILE_ID


BLOCKS = 2 * rows.RUN_BLOCKS + 5
NUMBERS = [0, 1, 7, 8, 1022, 1023, 1024, 1025, 2047, 2048, BLOCKS - 1]


class Tables:
    """Two tables, each with a changelog of its own: a crash may keep the write of one only."""

    def __init__(self):
        self.files, self.block_map = collections.UserDict(), {}
        self.files.name = "files"

    def fold(self, ack, *, torn=None):
        """Fold *ack*; when *torn* names a table, a crash loses its write, and *ack* comes again."""
        before = getattr(self, torn).copy() if torn else {}
        self._fold(ack)
        if torn:
            setattr(self, torn, before)
            self._fold(ack)

    def _fold(self, ack):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folds, "files", self.files)
            patch.setattr(folds, "block_map", self.block_map)
            folds.fold_ack(ack)

    def row(self):
        """Return the file's row."""
        return rows.decode(self.files[FILE_ID.encode()], rows.FileRow)

    def persisted(self):
        """Return the blocks whose bits are set."""
        runs = {n: self.block_map.get(f"{FILE_ID}:{n}".encode(), b"") for n in range(3)}
        missing = {
            block
            for n, run in runs.items()
            for block in rows.missing_blocks(
                run, first=n * rows.RUN_BLOCKS, blocks=BLOCKS, limit=BLOCKS
            )
        }
        return set(range(BLOCKS)) - missing


def ack_of(block, outcome="persisted", **fields):
    """Return what a worker says of *block*."""
    fields = {"file_size": 10 * BLOCKS - 3, "blocks": BLOCKS, "block_size": 10} | fields
    return BlockAck(
        file_id=FILE_ID,
        block=block,
        group="g",
        machine="m",
        outcome=outcome,
        attempt=1,
        size=10,
        sha256="ab" * 32,
        at=1.0 + block,
        **fields,
    )


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
    """Whatever comes, in any order, again or through a crash: bits and counts say the same."""
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
    """A row is written again, though it says the same: its changelog may not have it."""
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
    """A row that cannot be read is made anew: a worker that died of it would die again."""
    tables = Tables()
    tables.fold(ack_of(0))
    tables.files[FILE_ID.encode()] = b"{"
    tables.fold(ack_of(1))

    assert {0, 1} == tables.persisted()
    assert 2 == tables.row().persisted_blocks
    assert f"key {FILE_ID.encode()!r}" in caplog.text


def test_row_stays_small():
    """The row of the largest file costs 5 bytes for each 1,024 blocks."""
    counts = (rows.RUN_BLOCKS,) * 1024
    row = msgspec.structs.replace(rows.FileRow(), blocks=1 << 20, run_counts=counts)

    assert row.is_complete
    assert len(rows.encode(row)) < 5 * 1024 + 100


def test_heartbeats(monkeypatch):
    """A machine's row has when its heartbeats were received, whatever the machine's clock says."""
    table, now = collections.UserDict(), [1_000_000.0]
    monkeypatch.setattr(folds, "machines", table)
    monkeypatch.setattr(folds.time, "time", lambda: now[0])
    for _ in range(2):
        now[0] += 3.0
        beat = Heartbeat(machine="m", group="g", state="running", at=now[0] - 86_400.0)
        folds.fold_status(beat)
    row = rows.decode(table[b"m"], Presence)

    assert (beat, now[0], -86_400.0) == (row.heartbeat, row.received_at, row.ahead)
