"""Persists blocks as a worker does, and prints the number of each one; tests kill it.

``python -m tests.storage.child FOLDER FIRST COUNT``. A block's bytes follow from its number,
so a check knows afterwards what must be there. A line is written, and flushed, only
when `commit` has returned: it stands for the acknowledgement.
"""

import hashlib
import sys
import time

from pathlib import Path

from streamapp.errors import StoreError
from streamapp.protocol import fileplan
from streamapp.protocol.frames import BlockMeta
from streamapp.store import BlockStore
from streamapp.store.metadata import BlockMetadata


BLOCK_BYTES = 96 * 1024
FRAME_BYTES = 32 * 1024
FILE_BLOCKS = 4
TRIES = 50
RETRY_SECONDS = 0.01


def content(number):
    """The bytes of block *number* of all."""
    seed = hashlib.sha256(str(number).encode()).digest()
    return (seed * (BLOCK_BYTES // len(seed) + 1))[:BLOCK_BYTES]


def place(number):
    """File id, block and metadata of block *number* of all: four blocks to a file."""
    name = f"folder {number // FILE_BLOCKS % 3}/file {number // FILE_BLOCKS}"
    size = FILE_BLOCKS * BLOCK_BYTES
    file_id = fileplan.file_id(
        source="child", name=name, size=size, mtime_ns=1, block_size=BLOCK_BYTES
    )
    block = number % FILE_BLOCKS
    meta = BlockMeta(
        name=name,
        file_size=size,
        blocks=FILE_BLOCKS,
        block_size=BLOCK_BYTES,
        start=block * BLOCK_BYTES,
        size=BLOCK_BYTES,
        mtime_ns=1,
        source="child",
        sent_ns=1,
    )
    return file_id, block, meta


def held(operation):
    """Do *operation*, again and again while the store cannot, as a worker that holds."""
    for tries_left in reversed(range(TRIES)):
        try:
            return operation()
        except StoreError as error:
            sys.stderr.write(f"holds: {error}\n")
            if not tries_left:
                raise
            time.sleep(RETRY_SECONDS)
    return None


def keep(store, number):
    """Keep block *number*, unless it is there."""
    file_id, block, meta = place(number)
    if store.stored(file_id, block) is None:
        data = content(number)
        writer = held(lambda: store.begin(file_id, block, meta))
        for offset in range(0, len(data), FRAME_BYTES):
            frame = data[offset : offset + FRAME_BYTES]
            held(lambda frame=frame, offset=offset: writer.write(frame, offset=offset))
        held(lambda: writer.commit(_block_file(file_id, block, meta, data)))
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _block_file(file_id, block, meta, data):
    return BlockMetadata(
        file_id=file_id,
        name=meta.name,
        file_size=meta.file_size,
        blocks=meta.blocks,
        block_size=meta.block_size,
        block=block,
        start=meta.start,
        end=meta.end,
        size=meta.size,
        sha256=hashlib.sha256(data).hexdigest(),
        source=meta.source,
        mtime_ns=meta.mtime_ns,
        sent_ns=meta.sent_ns,
        stored_at=time.time(),
        machine="m",
        group="g",
    )


def main():
    """Keep the blocks that the command line names."""
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store = BlockStore([folder], min_free=0)
    held(store.open)
    for number in range(first, first + count):
        keep(store, number)
    store.close()


if __name__ == "__main__":
    main()
