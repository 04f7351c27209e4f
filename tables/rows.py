"""The rows of the tables, and how a record changes them.

Pure code. A row is an immutable value that is replaced whole. Folding is idempotent: a record
that is delivered twice changes nothing the second time. `docs/state.md` is normative.

The counters of a file are in its row. The bits of its blocks are in rows of another table, the
runs: each run has the bits of 1,024 blocks. The two tables have two changelogs and no common
transaction, so a crash may persist only one of two writes. Therefore the file's row has a count
for *each run*. Every acknowledgement, also a repeated one, sets that count from the run's bits,
which makes the two tables consistent again.
"""

from __future__ import annotations

import itertools

from typing import Annotated, Final, TypeVar

import msgspec

from streamapp.errors import BlockMalformedError
from streamapp.protocol import fileplan
from streamapp.protocol.frames import MAX_BLOCKS
from streamapp.protocol.messages import (
    BlockAck,
    BlockBytes,
    Count,
    FailedBlock,
    FileBytes,
    FileStatus,
    Seconds,
)


RUN_BLOCKS: Final = 1024
"""Blocks whose bits share one row, a run: an acknowledgement writes 128 bytes."""

SHORTEST_SECONDS: Final = 1.0
"""Least time over which a rate is computed."""

STALLED_SECONDS: Final = 30.0
"""A file that received no block for so long is shown with rate 0."""

ORDERS: Final = ("name", "activity")
"""Orders in which files can be listed."""

_ACTIVE: Final = frozenset({"arriving", "failed"})
_T = TypeVar("_T", bound=msgspec.Struct)


class FileRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known about one file. Sizes in bytes, times in seconds since 1970.

    *announced* is the state that the producer reported last, *reason* its reason. *run_counts* has
    the number of persisted blocks of each run of blocks, *has_last* whether the last block is
    persisted. *first_at* and *last_at* are the times of the first and the newest acknowledgement.
    *run_at* is the start of the producer's run that reported last: another kind of run.
    Numbers have limits, as in `streamapp.protocol.messages`, because a row may be damaged.
    """

    name: str = ""
    size: FileBytes = 0
    blocks: Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOCKS)] = 0
    block_size: BlockBytes = 0
    source: str = ""
    announced: str = ""
    reason: str = ""
    digest: str = ""
    failed_blocks: tuple[FailedBlock, ...] = ()
    run_counts: tuple[Count, ...] = ()
    has_last: bool = False
    first_at: Seconds = 0.0
    last_at: Seconds = 0.0
    run_at: Seconds = 0.0
    superseded_by: str = ""

    @property
    def persisted_blocks(self) -> int:
        """How many different blocks are persisted."""
        return sum(self.run_counts)

    @property
    def persisted_bytes(self) -> int:
        """How many bytes the persisted blocks have."""
        if not self.has_last:
            return self.persisted_blocks * self.block_size
        plan = fileplan.FilePlan(file_size=self.size, block_size=self.block_size)
        return (self.persisted_blocks - 1) * self.block_size + plan.span(self.blocks - 1)[1]

    @property
    def is_complete(self) -> bool:
        """Whether every block is persisted."""
        return self.blocks > 0 and self.persisted_blocks == self.blocks

    @property
    def state(self) -> str:
        """``complete`` if every block is persisted; otherwise what the producer reported last.

        A report of ``complete`` does not count. A superseded file is ``superseded``, however many
        of its blocks are persisted.
        """
        if self.is_superseded:
            return self.announced
        if self.is_complete:
            return "complete"
        if self.announced in {"", "complete"}:
            return "arriving" if self.persisted_blocks else "announced"
        if self.announced in {"announced", "sent"} and self.persisted_blocks:
            return "arriving"
        return self.announced

    @property
    def is_superseded(self) -> bool:
        """Whether another version of the file is current, or the file was deleted at its source.

        A deleted file that has no successor counts as a normal file once it is complete.
        """
        return self.announced == "superseded" and bool(self.superseded_by or not self.is_complete)

    @property
    def rate(self) -> float:
        """Bytes per second between the first and the newest persisted block; 0 if unknown.

        The first block is not counted: it was received before that time began.
        """
        seconds, blocks = self.last_at - self.first_at, self.persisted_blocks
        if seconds < SHORTEST_SECONDS or not blocks:
            return 0.0
        return self.persisted_bytes * (blocks - 1) / blocks / seconds

    @property
    def is_acknowledged(self) -> bool:
        """Whether a worker has acknowledged a block: name and sizes are then the worker's."""
        return bool(self.run_counts)

    def is_about(self, *, size: int, blocks: int, block_size: int) -> bool:
        """Return whether a record with these sizes can be about this file.

        The file id determines the sizes, so other sizes mean a wrong record.
        """
        return not self.blocks or (self.size, self.blocks, self.block_size) == (
            size,
            blocks,
            block_size,
        )

    def with_ack(self, ack: BlockAck, run: bytes) -> FileRow:
        """Return the row after *ack*; *run* has the bits of its run, including the bit of *ack*.

        Until the first acknowledgement, name and sizes of the row are what any producer reported.
        """
        base = self if self.is_acknowledged else self._described_by(ack)
        number = ack.block // RUN_BLOCKS
        counts = list(base.run_counts) + [0] * (number + 1 - len(base.run_counts))
        counts[number] = count_bits(run)
        last = ack.blocks - 1
        is_run_of_last = number == last // RUN_BLOCKS
        row = msgspec.structs.replace(
            base,
            run_counts=tuple(counts),
            has_last=is_set(run, last % RUN_BLOCKS) if is_run_of_last else base.has_last,
        )
        if row == self:
            return self
        return msgspec.structs.replace(
            row, first_at=min(base.first_at or ack.at, ack.at), last_at=max(base.last_at, ack.at)
        )

    def _described_by(self, ack: BlockAck) -> FileRow:
        """Return the row with the name and sizes of *ack*, without a report about another file."""
        is_same = self.is_about(size=ack.file_size, blocks=ack.blocks, block_size=ack.block_size)
        if self.is_superseded:
            is_named = ack.name in {"", self.name} and ack.source in {"", self.source}
            is_same = is_same and is_named
        reported = self if is_same else FileRow()
        return msgspec.structs.replace(
            reported,
            name=ack.name or reported.name,
            size=ack.file_size,
            blocks=ack.blocks,
            block_size=ack.block_size,
            source=ack.source or reported.source,
        )

    def with_status(self, status: FileStatus) -> FileRow:
        """Return the row after a producer's report; a report about another file changes nothing.

        Name and source that a worker acknowledged stay. Only a report with the same name and
        source can declare an acknowledged file superseded.
        """
        if not self.is_about(size=status.size, blocks=status.blocks, block_size=status.block_size):
            return self
        is_named = (status.name, status.source) == (self.name, self.source)
        if status.state == "superseded" and self.is_acknowledged and not is_named:
            return self
        return msgspec.structs.replace(
            self,
            name=(self.is_acknowledged and self.name) or status.name,
            size=status.size,
            blocks=status.blocks,
            block_size=status.block_size,
            source=(self.is_acknowledged and self.source) or status.source,
            announced=status.state,
            reason=status.reason,
            digest=status.digest or self.digest,
            failed_blocks=status.failed_blocks,
            run_at=status.run_at,
            superseded_by=status.superseded_by,
        )


def order_key(order: str, *, name: str, state: str, last_at: float) -> tuple[int, float, str]:
    """Return the sort key of a file.

    By *activity*: first arriving and failed files by name, then announced files by name, then
    complete files and last superseded files, the newest first.
    """
    if order == "name":
        return 0, 0.0, name
    if state == "superseded":
        return 3, -last_at, name
    if state == "complete":
        return 2, -last_at, name
    return (0 if state in _ACTIVE else 1), 0.0, name


def run_key(file_id: str, block: int) -> bytes:
    """Return the key of the run that holds the bit of *block*."""
    return f"{file_id}:{block // RUN_BLOCKS}".encode()


def with_bit(run: bytes, ack: BlockAck) -> bytes:
    """Return the bits of a run after *ack*: set when persisted, cleared when lost."""
    index = ack.block % RUN_BLOCKS
    size = min(RUN_BLOCKS, ack.blocks - ack.block // RUN_BLOCKS * RUN_BLOCKS)
    bits = bytearray(run.ljust(-(-size // 8), b"\0"))
    if ack.outcome == "persisted":
        bits[index // 8] |= 1 << index % 8
    elif ack.outcome == "lost":
        bits[index // 8] &= ~(1 << index % 8)
    return bytes(bits)


def count_bits(run: bytes) -> int:
    """Return how many bits of *run* are set."""
    return int.from_bytes(run, "little").bit_count()


def is_set(run: bytes, index: int) -> bool:
    """Return whether the bit *index* of *run* is set."""
    return index // 8 < len(run) and bool(run[index // 8] >> index % 8 & 1)


def missing_blocks(run: bytes, *, first: int, blocks: int, limit: int) -> list[int]:
    """Return at most *limit* numbers of blocks whose bits are not set in a run.

    The run's first bit is block *first*; the file has *blocks* of them.
    """
    numbers = range(first, min(first + RUN_BLOCKS, blocks))
    missing = (block for block in numbers if not is_set(run, block - first))
    return list(itertools.islice(missing, limit))


def encode(row: msgspec.Struct) -> bytes:
    """Return *row* as JSON, the format of the tables."""
    return msgspec.json.encode(row)


def decode(raw: bytes, row_type: type[_T]) -> _T:
    """Return the row in *raw*.

    Raises:
        BlockMalformedError: *raw* is not such a row (it may be of another version).
    """
    try:
        return msgspec.json.decode(raw, type=row_type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"a row that cannot be read as {row_type.__name__}: {error}"
        raise BlockMalformedError(message) from error
