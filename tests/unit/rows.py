"""The tables in memory, and the acknowledgements that are folded into them."""

import collections

import pytest

from streamapp.protocol.messages import BlockAck
from streamapp.tables import folds, rows
from tests.frames import FILE_ID


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
