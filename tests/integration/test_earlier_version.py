"""Data of an earlier version (commit 0355eb6) is read: a data folder, records and table rows.

`tests/data/version-0355eb6.tar` was written by that version's own code: a file of two blocks, and a
file of one block with a second version. The reading code of today must not need a conversion.
"""

import json
import tarfile

from pathlib import Path

import pytest

from streamapp.integrity import verify
from streamapp.protocol import messages
from streamapp.restore import assemble
from streamapp.store import BlockStore, metadata, walk
from streamapp.tables import rows


ARCHIVE = Path(__file__).parent.parent / "data" / "version-0355eb6.tar"
with tarfile.open(ARCHIVE) as archive:
    RECORDS = json.load(archive.extractfile("records.json"))
SAFE = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # since Python 3.11.4
FOLDER_ID = "7a996e1a2297f926dc01de320253a4a0"
START_ID = "ab" * 16


@pytest.fixture
def folder(tmp_path):
    """The data folder."""
    with tarfile.open(ARCHIVE) as archive:
        for name in (n for n in archive.getnames() if n.startswith("folder/")):
            archive.extract(name, tmp_path, **SAFE)
    return tmp_path / "folder"


@pytest.fixture
def acks():
    """The acknowledgements of its blocks."""
    return [messages.decode_ack(text.encode()) for text in RECORDS["acknowledgements"]]


def test_store(folder, acks):
    """The store has every block, and acknowledges it with the same record."""
    store = BlockStore([folder], min_free=0)
    store.open()
    try:
        found = [store.stored(ack.file_id, ack.block) for ack in acks]
        assert (FOLDER_ID,) == store.identities
        assert [START_ID] == [root.last_start for root in store.roots]
        assert (len(acks), sum(ack.size for ack in acks)) == store.kept
    finally:
        store.close()

    again = [
        block.acknowledgement(group=ack.group, machine=ack.machine, at=ack.at)
        for block, ack in zip(found, acks, strict=True)
    ]
    assert RECORDS["acknowledgements"] == [messages.encode(ack).decode() for ack in again]


def test_unchanged_by_opening(folder, acks):
    """Opening the folder changes no metadata."""
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*_metadata.json"))}
    store = BlockStore([folder], min_free=0)
    store.open()
    store.close()

    assert before == {path: path.read_bytes() for path in sorted(folder.rglob("*_metadata.json"))}
    assert len(acks) == len(before)


def test_encoded_as_before(folder):
    """Metadata are encoded as they were, byte for byte."""
    for path in folder.rglob("*.json"):
        if path.name.startswith("block_"):
            assert path.read_bytes() == metadata.decode_block(path.read_bytes()).encode()
        elif path.name == "file.json":
            assert path.read_bytes() == metadata.decode_file(path.read_bytes()).encode()


def test_verify(folder, acks):
    """Every block is good, and every ``file.json`` identifies its file."""
    verdicts = list(verify.blocks(folder, verify.Pace()))

    assert [verify.State.GOOD] * len(acks) == [verdict.state for verdict in verdicts]
    assert all(verdict.file.identifies_itself for verdict in verdicts)


def test_walk(folder, acks):
    """The walk finds the files and their blocks."""
    found = {(f.file.file_id, block) for f in walk.files_in([folder]) for block in f.blocks}

    assert {(ack.file_id, ack.block) for ack in acks} == found
    assert walk.block_bytes(folder) == sum(ack.size for ack in acks)


def test_assemble(folder):
    """Every file is whole, and is what was sent."""
    found = assemble.collect([folder])

    assert RECORDS["sha256"] == {file_id: assemble.sha256(file) for file_id, file in found.items()}


def test_rows(acks):
    """Rows of the tables are decoded, and a repeated acknowledgement changes none of them."""
    for ack in acks:
        raw = RECORDS["files"][ack.file_id].encode()
        row = rows.decode(raw, rows.FileRow)
        run = bytes.fromhex(RECORDS["block_map"][rows.run_key(ack.file_id, ack.block).decode()])

        assert row.is_complete
        assert run == rows.with_bit(run, ack)
        assert raw == rows.encode(row.with_ack(ack, run))


def test_heartbeat():
    """A heartbeat is decoded, and encoded to the same bytes."""
    heartbeat = messages.decode_status(RECORDS["heartbeat"].encode())

    assert (START_ID, "running", (0, 1)) == (
        heartbeat.start_id,
        heartbeat.state,
        heartbeat.partitions,
    )
    assert RECORDS["heartbeat"].encode() == messages.encode(heartbeat)
