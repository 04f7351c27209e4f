"""Rows of the tables: records in any order, any number of times, give the same row."""

import msgspec
import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import BlockMalformedError
from streamapp.protocol.messages import FailedBlock, FileStatus
from streamapp.tables import rows
from tests.frames import FILE_ID
from tests.unit.rows import BLOCKS, NUMBERS, Tables, ack_of


SIZE = 10 * BLOCKS - 3


def status_of(state="sent", **fields):
    """Return a producer's status of the file."""
    fields = {"size": SIZE, "blocks": BLOCKS, "block_size": 10, "name": "n", "source": "s"} | fields
    return FileStatus(file_id=FILE_ID, state=state, **fields)


@given(st.lists(st.sampled_from(NUMBERS), min_size=1).flatmap(
    lambda blocks: st.tuples(st.just(blocks), st.permutations(blocks + blocks[:5]))
))  # fmt: skip
def test_any_order(orders):
    """Acknowledgements in any order, some of them repeated, give the same row and bits."""
    results = []
    for order in orders:
        tables = Tables()
        for block in order:
            tables.fold(ack_of(block))
        results.append((tables.row(), tables.block_map))

    assert results[0] == results[1]
    assert results[0][0].first_at == 1.0 + min(orders[0])
    assert results[0][0].last_at == 1.0 + max(orders[0])


@pytest.mark.parametrize("blocks", [1, 7, 8, 9, 1023, 1024, 1025, 2048])
def test_complete(blocks):
    """A file is complete with its last block and not before, and has all its bytes then."""
    tables = Tables()
    size = 10 * blocks - 9
    for block in reversed(range(blocks)):
        assert not tables.files or not tables.row().is_complete
        tables.fold(ack_of(block, blocks=blocks, file_size=size))

    row = tables.row()
    assert row.is_complete
    assert "complete" == row.state
    assert (blocks, size) == (row.persisted_blocks, row.persisted_bytes)


@pytest.mark.parametrize("block", [0, BLOCKS - 1])
def test_lost(block):
    """A block that is lost is missing again, and its bytes are not counted."""
    tables = Tables()
    for number in (0, 1, BLOCKS - 1):
        tables.fold(ack_of(number))
    tables.fold(ack_of(block, "lost"))

    row = tables.row()
    assert 2 == row.persisted_blocks
    assert (17 if block == 0 else 20) == row.persisted_bytes
    tables.fold(ack_of(block))
    assert 27 == tables.row().persisted_bytes


@pytest.mark.parametrize("change", [{"file_size": 7}, {"blocks": BLOCKS + 1}, {"block_size": 11}])
def test_forged(change):
    """Acknowledgements and status of a file with another block size change nothing."""
    tables = Tables()
    tables.fold(ack_of(0))
    before = (dict(tables.files), dict(tables.block_map))
    tables.fold(ack_of(1, **change))
    assert before == (tables.files, tables.block_map)

    status = status_of(**{k.removeprefix("file_"): v for k, v in change.items()})
    assert tables.row() is not None
    row = tables.row()
    assert row is row.with_status(status)


FORGED = [
    {"name": "other", "source": "liar"},
    {"size": 7, "blocks": 1},
    {"size": SIZE + 1},
    {"block_size": 11, "blocks": BLOCKS - 1, "state": "failed", "reason": "because"},
]


@pytest.mark.parametrize("forged", FORGED)
def test_forged_status(forged):
    """Name and sizes are those of the acknowledgements, before and after a forged status."""
    honest = {"name": "n", "source": "s"}
    results = []
    for is_first in (True, False):
        tables = Tables()
        if is_first:
            tables.files[FILE_ID.encode()] = rows.encode(
                rows.FileRow().with_status(status_of(**forged))
            )
        for block in range(2):
            tables.fold(ack_of(block, **honest))
        row = tables.row()
        if not is_first:
            row = row.with_status(status_of(**forged))
        results.append(row)
        said = row.name, row.source, row.size, row.blocks, row.block_size
        assert ("n", "s", SIZE, BLOCKS, 10) == said
        assert (2, 20) == (row.persisted_blocks, row.persisted_bytes)
        assert "" == row.reason

    assert results[0] == results[1]


def test_bytes_of_a_block_that_was_wiped():
    """If the bits are lost, the counts follow them, and no number of bytes is negative."""
    tables = Tables()
    tables.fold(ack_of(BLOCKS - 1))
    tables.block_map.clear()
    tables.fold(ack_of(BLOCKS - 2))

    assert (1, 10) == (tables.row().persisted_blocks, tables.row().persisted_bytes)


@pytest.mark.parametrize(
    ("announced", "blocks", "state"),
    [
        ("", [], "announced"),
        ("announced", [], "announced"),
        ("announced", [0], "arriving"),
        ("sent", [], "sent"),
        ("sent", [1], "arriving"),
        ("complete", [], "announced"),
        ("complete", [0], "arriving"),
        ("failed", [0], "failed"),
        ("changed", [0], "changed"),
        ("failed", [0, 1], "complete"),
    ],
)
def test_state(announced, blocks, state):
    """A file is complete by its acknowledgements alone; its other states are the producer's."""
    tables = Tables()
    for block in blocks:
        tables.fold(ack_of(block, blocks=2, file_size=20))
    row = tables.row() if blocks else rows.FileRow(blocks=2)

    assert state == msgspec.structs.replace(row, announced=announced).state


def test_status():
    """The newest status of the producer counts; a digest that it does not repeat stays."""
    row = rows.FileRow().with_status(status_of("announced", digest="ab" * 32))
    row = row.with_status(
        status_of("failed", reason="no", failed_blocks=(FailedBlock(block=3, reason="x"),))
    )

    assert ("failed", "no", 1, "ab" * 32) == (
        row.state,
        row.reason,
        len(row.failed_blocks),
        row.digest,
    )
    assert row == rows.decode(rows.encode(row), rows.FileRow)


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 20))
def test_missing_blocks(run, blocks, limit):
    """The missing blocks are those whose bits are not set, the first *limit* of them."""
    expected = [b for b in range(blocks) if b // 8 >= len(run) or not run[b // 8] & 1 << b % 8]

    assert expected[:limit] == rows.missing_blocks(run, first=0, blocks=blocks, limit=limit)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"blocks": "x"}', b"\xff"])
def test_unreadable_row(raw):
    """A row that cannot be decoded raises an error of this project."""
    with pytest.raises(BlockMalformedError, match="FileRow"):
        rows.decode(raw, rows.FileRow)


@pytest.mark.parametrize(
    ("blocks", "seconds", "rate"),
    [
        (5, 4.0, 10.0),  # four blocks came after the first one
        (5, 0.001, 0.0),  # a burst
        (1, 0.0, 0.0),
        (0, 0.0, 0.0),
    ],
)
def test_rate(blocks, seconds, rate):
    """The rate is over the time between acknowledgements, and 0 below one second."""
    row = rows.FileRow(
        size=100,
        blocks=10,
        block_size=10,
        run_counts=(blocks,),
        first_at=7.0,
        last_at=7.0 + seconds,
    )

    assert rate == pytest.approx(row.rate)


def test_order():
    """Active files come first, then announced ones, then complete ones, the newest first."""
    found = [
        ("z", "arriving", 1.0),
        ("b", "complete", 5.0),
        ("a", "complete", 4.0),
        ("c", "announced", 0.0),
        ("y", "failed", 9.0),
        ("d", "sent", 0.0),
        ("e", "changed", 2.0),
    ]

    def ordered(order):
        def key(file):
            return rows.order_key(order, name=file[0], state=file[1], last_at=file[2])

        return "".join(file[0] for file in sorted(found, key=key))

    assert "yzcdeba" == ordered("activity")
    assert "abcdeyz" == ordered("name")


def test_superseded():
    """A superseded file stays so until its producer reports another state."""
    tables = Tables()
    for block in range(BLOCKS):
        tables.fold(ack_of(block, blocks=BLOCKS))
    known = tables.row()
    named = {"name": known.name, "source": known.source}
    row = known.with_status(status_of("superseded", superseded_by="ab" * 16, **named))
    assert ("superseded", True, "ab" * 16) == (row.state, row.is_complete, row.superseded_by)
    assert "superseded" == row.with_ack(ack_of(0, "lost", blocks=BLOCKS), b"").state
    back = row.with_status(status_of("complete", **named))
    assert ("complete", "") == (back.state, back.superseded_by)


def test_superseded_by_none():
    """A file that was deleted at its source is superseded until all of it is persisted."""
    tables = Tables()
    for block in range(BLOCKS):
        tables.fold(ack_of(block, blocks=BLOCKS))
    whole = tables.row()
    tables.fold(ack_of(0, "lost", blocks=BLOCKS))
    lost = tables.row()
    ended = status_of("superseded", reason="gone", name=lost.name, source=lost.source)

    row = lost.with_status(ended)
    assert ("superseded", True, "gone") == (row.state, row.is_superseded, row.reason)
    row = whole.with_status(ended)
    assert ("complete", False) == (row.state, row.is_superseded)


@pytest.mark.parametrize("lie", [{"name": "x"}, {"source": "x"}])
def test_forged_superseded(lie):
    """A record with another name than the acknowledged one cannot supersede the file."""
    tables = Tables()
    named = {"name": "n", "source": "s"}
    tables.fold(ack_of(0, **named))
    known = tables.row()
    forged = status_of("superseded", superseded_by="ab" * 16, **named | lie)
    assert known == known.with_status(forged)
    came_first = rows.FileRow().with_status(forged)
    assert "superseded" == came_first.state
    assert "arriving" == came_first.with_ack(ack_of(0, **named), b"\1").state
