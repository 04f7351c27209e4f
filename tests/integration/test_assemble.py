"""Files are joined from the disks alone; what is not whole is never called so."""

import json
import os

from pathlib import Path

import pytest

from streamapp.errors import VerificationError
from streamapp.restore import assemble
from streamapp.store import BlockStore
from tests.integration.blocks import keep_file


SIZE, BLOCK_SIZE = 25, 10


@pytest.fixture
def roots(tmp_path):
    """The data folders of two machines."""
    return [tmp_path / "m1", tmp_path / "m2"]


@pytest.fixture
def joined(roots, monkeypatch):
    """A file in three blocks, of which each machine keeps some."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    stores = [BlockStore([root], min_free=0) for root in roots]
    for store in stores:
        store.open()
    for store in stores:
        keep_file(store, "a/b.bin", size=SIZE, block_size=BLOCK_SIZE)
        store.set_aside("t-0-1", {}, b"")
        store.close()
    for root, numbers in zip(roots, [[1], [0, 2]], strict=True):
        for number in numbers:
            for path in (root / "a/b.bin").glob(f"block_000{number}*"):
                path.unlink()
    (found,) = assemble.collect(roots).values()
    return found


def test_joins(joined, roots):
    """Blocks of one file are found wherever they lie."""
    assert [] == joined.missing
    assert SIZE == sum(map(len, assemble.read(joined)))
    whole = b"".join((p[0]).read_bytes() for _, p in sorted(joined.blocks.items()))
    assert whole == b"".join(assemble.read(joined))
    assert [roots[0], roots[1], roots[0]] == [
        joined.blocks[number][0].parent.parent.parent for number in range(3)
    ]


def test_relative_folder(joined, roots, monkeypatch):
    """A folder may be given as seen from here."""
    monkeypatch.chdir(roots[0].parent)
    (found,) = assemble.collect([Path("m1"), Path("m2")]).values()

    assert assemble.sha256(joined) == assemble.sha256(found)


def test_missing(joined, roots):
    """A block that nobody has is named, by number."""
    (found,) = assemble.collect(roots[:1]).values()

    assert [1] == found.missing
    with pytest.raises(VerificationError, match=r"missing: 1 block$"):
        assemble.sha256(found)
    assert joined.missing == []


@pytest.mark.parametrize("change", [b"?", b"", b"longer than a block"])
def test_damaged_bytes(joined, change):
    """A byte that is not what was stored is found."""
    joined.blocks[1][0].write_bytes(change)

    with pytest.raises(VerificationError, match=r"block_0001\.bin"):
        assemble.sha256(joined)


@pytest.mark.parametrize("field", ["file_id", "block", "sha256"])
def test_damaged_metadata(joined, field):
    """Metadata that speak of something else prove nothing."""
    path = joined.blocks[1][0].with_name("block_0001_metadata.json")
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {field: 7 if field == "block" else "0" * 32}))

    with pytest.raises(VerificationError):
        assemble.sha256(joined)


def test_block_of_another_length(joined):
    """A block that is proven, but too short for its place, does not make a shorter file."""
    first, last = joined.blocks[0][0], joined.blocks[2][0]
    first.write_bytes(last.read_bytes())
    metadata = json.loads(last.with_name("block_0002_metadata.json").read_text())
    first.with_name("block_0000_metadata.json").write_text(json.dumps(metadata | {"block": 0}))

    with pytest.raises(VerificationError, match="has 10 there"):
        assemble.sha256(joined)


@pytest.mark.parametrize("name", ["block_0001.bin", "block_0001_metadata.json"])
def test_unreadable(joined, name):
    """A file that cannot be read raises an error of this project that names it."""
    path = joined.blocks[1][0].with_name(name)
    path.unlink()
    path.mkdir()

    with pytest.raises(VerificationError, match=name):
        assemble.sha256(joined)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_unreadable_file_json(joined, content, roots):
    """A ``file.json`` that says nothing is an error that names it."""
    joined.blocks[1][0].with_name("file.json").write_bytes(content)

    with pytest.raises(VerificationError, match=r"file\.json"):
        assemble.collect(roots)
