"""Makes frames as the producer does."""

import hashlib

from streamapp.protocol import compression, fileplan
from streamapp.protocol.frames import BlockMeta, Codec, Frame, Seal


FILE_ID = "0123456789abcdef" * 2


def meta_of(size, **changes):
    """Return the metadata of a file that is one block of *size* bytes."""
    fields = {
        "name": "a/b.csv",
        "file_size": size,
        "blocks": 1,
        "block_size": max(1, size),
        "start": 0,
        "size": size,
        "mtime_ns": 1,
        "source": "laptop",
        "sent_ns": 2,
    }
    return BlockMeta(**fields | changes)


def id_of(meta):
    """Return the file id that a producer gives the file of *meta*."""
    return fileplan.file_id(
        source=meta.source,
        name=meta.name,
        size=meta.file_size,
        mtime_ns=meta.mtime_ns,
        block_size=meta.block_size,
        version=meta.version,
    )


def frames_of(data, *, frame_size, meta=None, **fields):
    """Return the frames of one block and their values, ``[(frame, value), ...]``."""
    pieces = [data[i : i + frame_size] for i in range(0, len(data), frame_size)] or [b""]
    seal = Seal(hashlib.sha256(data).digest(), len(pieces))
    meta = meta or meta_of(len(data))
    fields = {"file_id": id_of(meta), "block": 0, "attempt": 1, "codec": Codec.NONE} | fields
    return [
        (
            Frame(
                frame=number,
                offset=number * frame_size,
                length=len(piece),
                meta=meta if number == 0 else None,
                seal=seal if number == len(pieces) - 1 else None,
                **fields,
            ),
            bytes(compression.encode(piece, fields["codec"])),
        )
        for number, piece in enumerate(pieces)
    ]


def plan_meta(plan, block, **changes):
    """Return the metadata of *block* of a file that is cut as *plan* says."""
    start, size = plan.span(block)
    cut = {"file_size": plan.file_size, "blocks": plan.blocks, "block_size": plan.block_size}
    return meta_of(size, **cut, start=start, **changes)
