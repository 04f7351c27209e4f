"""A partition whose records a test gives to its receiver, and blocks to give."""

import functools
import os

import msgspec

from streamapp.protocol import frames
from streamapp.protocol.frames import Frame
from streamapp.receiver.context import InboundRecord
from streamapp.receiver.partition import PartitionReceiver
from tests.fakes import BLOCK_TIMEOUT
from tests.frames import frames_of, id_of, meta_of


DATA = bytes(range(256)) * 4
FILE_ID = id_of(meta_of(len(DATA)))
OTHER = meta_of(len(DATA), name="other")
OTHER_ID = id_of(OTHER)


class Partition:
    """One partition, with its receiver."""

    def __init__(self, context, number=3):
        self.context = context
        self.receiver = PartitionReceiver("data-blocks", number, context)
        self.offset = 0
        self.generation = 1

    async def put(self, *records):
        """Give *records* to the receiver: frames, or headers, with their values."""
        for headers, value in records:
            packed = frames.encode(headers) if isinstance(headers, Frame) else headers
            record = InboundRecord(
                offset=self.offset,
                generation=self.generation,
                headers=packed,
                key=b"key",
                value=value,
                ack=functools.partial(self.context.seen.append, self.offset),
            )
            self.offset += 1
            await self.receiver.take(record)

    def rewind(self, offset):
        """Go back to *offset*, as after a rebalance."""
        self.offset = offset
        self.generation += 1


def pieces(data=DATA, *, frame_size=256, **fields):
    """Return the frames of a block and their values."""
    return frames_of(data, frame_size=frame_size, **fields)


def changed(records, number, *, value=None, **fields):
    """Return *records* with frame *number* changed."""
    frame, old = records[number]
    new = (msgspec.structs.replace(frame, **fields), old if value is None else value)
    return [*records[:number], new, *records[number + 1 :]]


def half_written(store):
    """Return the names of blocks that are being written, while folders may be removed."""
    walk = os.walk(store.roots[0].path)
    return [name for _, _, names in walk for name in names if name.endswith(".part")]


async def expire(partition, clock, *, highwater=None, after=BLOCK_TIMEOUT + 1):
    """Let *after* seconds pass, then expire the attempts that are late."""
    clock.now += after
    await partition.receiver.expire(highwater=partition.offset if highwater is None else highwater)
