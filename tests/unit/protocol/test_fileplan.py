"""File ids and plans: an unchanged file has the same id, and blocks have no gap."""

import hashlib

import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.protocol import fileplan


FILE = {"source": "laptop", "name": "a/b.csv", "size": 5, "mtime_ns": 7, "block_size": 2}


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 32))
def test_blocks_cover_the_file(file_size, block_size):
    """Blocks follow each other without a gap, from the first byte of the file to its last."""
    plan = fileplan.FilePlan(file_size=file_size, block_size=block_size)
    last_start, last_size = plan.span(plan.blocks - 1)

    assert plan.blocks >= 1
    assert (0, min(file_size, block_size)) == plan.span(0)
    assert file_size == last_start + last_size
    assert last_size > 0 or file_size == 0
    assert all(
        sum(plan.span(block)) == plan.span(block + 1)[0] for block in range(min(plan.blocks - 1, 9))
    )


def test_empty_file():
    """An empty file has one empty block: it exists, so it must arrive."""
    assert 1 == fileplan.FilePlan(file_size=0, block_size=2).blocks
    assert (0, 0) == fileplan.FilePlan(file_size=0, block_size=2).span(0)


def test_id_is_for_ever():
    """The id of an unchanged file never changes, in no version: what was sent is found again."""
    assert "f96cc8ff8b185fb7d70ed530f55fa1fb" == fileplan.file_id(**FILE)


@pytest.mark.parametrize(
    "change", [{"source": "b"}, {"name": "c"}, {"size": 6}, {"mtime_ns": 8}, {"block_size": 3}]
)
def test_changed_file(change):
    """A file of which anything changed has another id."""
    assert fileplan.file_id(**FILE) != fileplan.file_id(**FILE | change)


@given(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9))
def test_fields_do_not_run_together(source, name, moved):
    """No part of one field can be taken for a part of the next."""
    one = fileplan.file_id(**FILE | {"source": source + moved, "name": name})
    two = fileplan.file_id(**FILE | {"source": source, "name": moved + name})

    assert (one == two) == (moved == "")


def test_names_that_travel_alike():
    """Two names that become one when they travel still have two ids."""
    assert fileplan.file_id(**FILE | {"name": "\udcff"}) != fileplan.file_id(
        **FILE | {"name": "%FF"}
    )


def test_file_digest():
    """The file digest is SHA-256 over the raw SHA-256s of the blocks, in their order."""
    blocks = [hashlib.sha256(bytes([n])).digest() for n in range(3)]

    assert hashlib.sha256(b"".join(blocks)).hexdigest() == fileplan.file_digest(blocks)
    assert fileplan.file_digest(blocks) != fileplan.file_digest(blocks[::-1])


@given(st.binary(min_size=16, max_size=16), st.integers(0, 1 << 20), st.integers(1, 100))
def test_partitions_take_turns(raw_id, block, partitions):
    """Consecutive blocks go to consecutive partitions, the first where the id says."""
    first = fileplan.block_partition(raw_id.hex(), 0, partitions)

    assert int.from_bytes(raw_id[:4], "big") % partitions == first
    assert (first + block) % partitions == fileplan.block_partition(raw_id.hex(), block, partitions)
