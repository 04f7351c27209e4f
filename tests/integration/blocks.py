"""Fills data folders as a worker does, with files whose ids match their descriptions."""

import hashlib
import random

from streamapp.protocol import fileplan
from streamapp.protocol.frames import BlockMeta
from streamapp.store.metadata import BlockMetadata
from tests.frames import FILE_ID, meta_of


def file_id_of(name, size, block_size, source="laptop"):
    """Return the id that a producer gives such a file."""
    return fileplan.file_id(source=source, name=name, size=size, mtime_ns=1, block_size=block_size)


def keep_file(store, name, *, size, block_size, seed=0, group="g", machine="m"):  # noqa: PLR0913 - what a file is
    """Persist a file of random bytes in *store* (or one root); return its id."""
    plan = fileplan.FilePlan(file_size=size, block_size=block_size)
    file_id = file_id_of(name, size, block_size)
    rng = random.Random(f"{name} {seed}")  # noqa: S311 - no secret
    for block in range(plan.blocks):
        start, length = plan.span(block)
        keep_block(
            store, file_id, block, rng.randbytes(length),
            name=name, plan=plan, start=start, group=group, machine=machine,
        )  # fmt: skip
    return file_id


def keep_block(store, file_id, block, data, *, name, plan, start, group="g", machine="m"):  # noqa: PLR0913 - what a block is
    """Persist one block."""
    meta = BlockMeta(
        name=name,
        file_size=plan.file_size,
        blocks=plan.blocks,
        block_size=plan.block_size,
        start=start,
        size=len(data),
        mtime_ns=1,
        source="laptop",
        sent_ns=2,
    )
    writer = store.begin(file_id, block, meta)
    writer.write(data, offset=0)
    writer.commit(
        BlockMetadata(
            file_id=file_id,
            name=name,
            file_size=plan.file_size,
            blocks=plan.blocks,
            block_size=plan.block_size,
            block=block,
            start=start,
            end=meta.end,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            source="laptop",
            mtime_ns=1,
            sent_ns=2,
            stored_at=3.0,
            machine=machine,
            group=group,
        )
    )


def block_file(data, *, file_id=FILE_ID, block=0, meta=None):
    """Return the metadata of a block of *data*."""
    meta = meta or meta_of(len(data))
    return BlockMetadata(
        file_id=file_id,
        name=meta.name,
        file_size=meta.file_size,
        blocks=meta.blocks,
        block_size=meta.block_size,
        block=block,
        start=meta.start,
        end=meta.end,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        source=meta.source,
        mtime_ns=meta.mtime_ns,
        sent_ns=meta.sent_ns,
        stored_at=1.0,
        machine="m",
        group="g",
    )


def flip(path, bit):
    """Flip one bit of the file at *path*, as a disk does: nothing else changes."""
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    with path.open("r+b") as file:
        file.write(data)
