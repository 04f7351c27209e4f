"""Receives the records of one partition: frames in, persisted blocks out.

A record is settled only when its block is persisted and Kafka has the block's acknowledgement, or
when the record can never become part of a block and that is published. A write that fails is
retried; no record is skipped.

A frame is an orphan if the first frame of its attempt was not received. It is useless then, but it
is not settled at once: it waits until its block is persisted and acknowledged, or until it is late.
A frame of a block that is already on disk is not settled at once either: the worker that persisted
the block may have died before it acknowledged the block.

`streamapp.receiver.attempts` has the phases of an attempt. `streamapp.receiver.endings` ends
attempts and publishes their outcomes.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import BlockError
from streamapp.protocol import compression, frames
from streamapp.receiver.assembly import Assembly, Step
from streamapp.receiver.attempts import (
    Attempt,
    Attempts,
    Closed,
    Elsewhere,
    Ending,
    Orphaned,
    Repeated,
    Writing,
)
from streamapp.receiver.backpressure import StoreRetry
from streamapp.receiver.context import AttemptId
from streamapp.receiver.endings import Endings
from streamapp.receiver.ledger import Ledger
from streamapp.receiver.outcomes import OutcomePublisher
from streamapp.receiver.pending_writer import PendingWriter
from streamapp.store.metadata import BlockMetadata


if TYPE_CHECKING:
    from streamapp.receiver.attempts import Phase
    from streamapp.receiver.context import BlockId, Claim, InboundRecord, WorkerContext

logger = logging.getLogger(__name__)

MAX_OPEN_BLOCKS: Final = 64
"""Blocks of one partition that may be written at once; one producer has one or two."""

IDLE_SHARE: Final = 1 / 6
"""After this part of the block timeout without a frame, a block is idle: it is rejected before
others if one more block must begin."""


class PartitionReceiver:
    """Receives the records of one partition, and has its attempts."""

    def __init__(
        self, topic: str, partition: int, context: WorkerContext, *, committed: int = 0
    ) -> None:
        """*committed* is the group's committed offset, from which records are read."""
        self.topic, self.partition = topic, partition
        self._committed = committed
        self._context = context
        self._ledger = Ledger()
        self._lock = asyncio.Lock()  # `expire` must not run while a frame is received
        self._attempts = Attempts(context.clock.monotonic)
        self._knows_claims = False  # whether it caught up since the partition was assigned
        self._outcomes = OutcomePublisher(topic, partition, context)
        self._store_retry = StoreRetry(f"{topic}-{partition}", context, on_resume=self._excuse_all)
        self._endings = Endings(
            context, self._attempts, self._ledger, self._outcomes, self._store_retry
        )

    @property
    def safe_offset(self) -> int | None:
        """The oldest offset that is not settled; the group commits no more than it."""
        return self._ledger.safe_offset

    @property
    def safe_stamp(self) -> float | None:
        """When the oldest record that is not settled was written; None without one.

        Seconds since 1970.
        """
        return self._ledger.safe_stamp

    @property
    def last_offset(self) -> int:
        """The newest offset that was received; -1 before the first."""
        return self._ledger.last_offset

    async def take(self, record: InboundRecord) -> None:
        """Receive *record*; it is settled now or by a later call."""
        async with self._lock:
            missing = self._missing_before(record)
            if self._ledger.enter(
                record.offset, generation=record.generation, ack=record.ack, stamp=record.stamp
            ):
                self._discard_all()
            elif missing:
                await self._outcomes.report_deleted(record.offset - missing, record.offset)
            try:
                frame = frames.parse(record.headers)
            except BlockError as error:
                await self._outcomes.quarantine(record, str(error))
                self._ledger.settle([record.offset])
                return
            await self._receive_frame(frame, record)

    async def expire(self, *, highwater: int) -> None:
        """End the attempts whose frames are late; *highwater* is the partition's end.

        While a record is received this does nothing: the next call does it.
        """
        if self._lock.locked():
            return
        async with self._lock:
            for attempt in self._attempts.within(Writing):
                if reason := self._lateness(attempt, highwater):
                    await self._endings.reject(attempt, f"given up: {reason}")
            if self._context.without_space:
                await self._free_space()
            for attempt in self._attempts.within(Orphaned, Repeated, Elsewhere):
                # The end of one attempt settles all others at the same block.
                if not isinstance(attempt.phase, Closed) and self._lateness(attempt, highwater):
                    await self._endings.end(attempt)

    async def forget_older(self, generation: int) -> None:
        """Discard what was received before *generation*: Kafka delivers it again.

        While a record is received this does nothing.
        """
        if self._lock.locked():
            return
        async with self._lock:
            if self._ledger.void_unless(generation):
                self._discard_all()

    def drop(self) -> None:
        """Discard all attempts and publish nothing: Kafka delivers their frames again."""
        self._discard_all()
        self._store_retry.resume()

    def _discard_all(self) -> None:
        self._endings.discard_all()
        self._knows_claims = False

    def _missing_before(self, record: InboundRecord) -> int:
        """Return how many records retention deleted between the last record and this one.

        The topic is neither compacted nor transactional, so its offsets have no other gaps.
        """
        expected = self._committed if self.last_offset < 0 else self.last_offset + 1
        return max(0, record.offset - expected) if expected else 0

    # --- a frame, by the phase of its attempt

    async def _receive_frame(self, frame: frames.Frame, record: InboundRecord) -> None:
        attempt_id = AttemptId(frame.file_id, frame.block, frame.attempt)
        attempt = self._attempts.get(attempt_id)
        if attempt is None or isinstance(attempt.phase, Orphaned):
            phase = await self._recognize(attempt_id, frame, record)
            if phase is None:
                return
            if attempt is None or not isinstance(phase, Orphaned):
                attempt = self._attempts.move(attempt_id, phase)
        match attempt.phase:
            case Closed():
                self._ledger.settle([record.offset])
            case Writing():
                await self._write_frame(attempt, attempt.phase, frame, record)
            case Orphaned() | Repeated() | Elsewhere():
                await self._note_frame(attempt, frame, record)
            case Ending():
                message = f"{attempt.id} has a frame while its outcome is on the way to Kafka"
                raise AssertionError(message)

    async def _recognize(
        self, attempt_id: AttemptId, frame: frames.Frame, record: InboundRecord
    ) -> Phase | None:
        """Return the phase that *frame* begins; None if its block was unusable and was rejected."""
        if frame.meta is None:
            stored = await self._store_retry.stored(attempt_id.block_id)
            return Orphaned() if stored is None else Repeated(stored)
        try:
            frames.check_identity(frame.file_id, frame.meta)
            stored = await self._store_retry.stored(attempt_id.block_id)
            if stored is not None:
                return Repeated(stored)
            if claim := await self._claim(attempt_id.block_id):
                return Elsewhere(claim, frame.meta)
            await self._limit_open_blocks()
            return await self._begin(frame, frame.meta)
        except BlockError as error:  # for example a name that this system does not allow
            attempt = self._attempts.move(attempt_id, Ending())
            attempt.offsets.append(record.offset)
            await self._outcomes.quarantine(record, str(error), frame)
            await self._outcomes.reject(attempt_id, frame.meta, str(error))
            self._endings.close(attempt)
            return None

    async def _begin(self, frame: frames.Frame, meta: frames.BlockMeta) -> Writing:
        """Open a block for writing.

        Raises:
            BlockError: the block is unusable.
        """
        await self._context.begin_block()
        pending = PendingWriter(lambda: self._context.store.begin(frame.file_id, frame.block, meta))
        try:
            writer = await self._store_retry.run(pending.make, meanwhile=self._free_space)
        except BaseException:
            pending.abort()
            self._context.abandon_block()
            raise
        self._context.stats.open_blocks += 1
        return Writing(Assembly(frame, meta), writer)

    async def _write_frame(
        self, attempt: Attempt, writing: Writing, frame: frames.Frame, record: InboundRecord
    ) -> None:
        attempt.offsets.append(record.offset)
        if frame.abort:
            self._endings.close(attempt)
            return
        try:
            if writing.assembly.place(frame) is Step.REPEATED:
                return  # it does not count as progress
            await self._write(attempt, writing, frame, record.value)
            if writing.must_yield:
                await self._endings.reject(attempt, "given up: an older block needs its room")
            elif frame.seal:
                writing.assembly.check(frame)
                await self._persist(attempt, writing, frame.seal)
        except BlockError as error:
            await self._outcomes.quarantine(record, str(error), frame)
            await self._endings.reject(attempt, str(error))

    async def _note_frame(
        self, attempt: Attempt, frame: frames.Frame, record: InboundRecord
    ) -> None:
        """Note a frame that is not written; the last one ends its attempt."""
        attempt.offsets.append(record.offset)
        now = self._context.clock.monotonic()
        attempt.progress.note(frame.frame, len(record.value), now=now)
        phase = type(attempt.phase)
        if frame.abort:
            self._endings.close(attempt)
        elif frame.seal and phase is not Orphaned:
            await self._endings.end(attempt, frame.seal, record)
        elif (oldest := self._attempts.surplus(phase)) is not None:
            await self._endings.end(oldest)

    # --- a block that is written

    async def _write(
        self, attempt: Attempt, writing: Writing, frame: frames.Frame, value: bytes
    ) -> None:
        """Write the bytes of *frame*, or note that the block must yield its disk space."""

        def work() -> None:
            if writing.must_yield:
                return
            data = compression.decode(value, frame.codec, length=frame.length)
            writing.writer.write(data, offset=frame.offset)
            writing.assembly.add(frame, data)

        async def free_space() -> None:
            await self._free_space(but=attempt)
            writing.must_yield = await asyncio.to_thread(lambda: writing.writer.must_yield)

        await self._store_retry.run(work, meanwhile=free_space)
        if not writing.must_yield:
            attempt.progress.note(frame.frame, frame.length, now=self._context.clock.monotonic())
            self._context.stats.received(frame.length)

    async def _persist(self, attempt: Attempt, writing: Writing, seal: frames.Seal) -> None:
        meta = self._metadata_of(writing, seal)
        async with self._context.locks.of(*attempt.id.block_id):
            await self._store_retry.run(lambda: writing.writer.commit(meta))
            self._attempts.move(attempt.id, Ending())
            self._context.stats.open_blocks -= 1
            self._context.stats.persisted(meta.size)
            try:
                await self._outcomes.acknowledge(attempt.id.attempt, meta)
            finally:  # if publishing fails, the block is acknowledged when it is delivered again
                self._context.finish_block()
        logger.debug("persisted %s", attempt.id)
        self._endings.settle_block(attempt.id.block_id)

    def _metadata_of(self, writing: Writing, seal: frames.Seal) -> BlockMetadata:
        meta, assembly = writing.assembly.meta, writing.assembly
        return BlockMetadata(
            **msgspec.structs.asdict(meta),
            file_id=assembly.file_id,
            block=assembly.block,
            end=meta.end,
            sha256=assembly.sha256.hex(),
            stored_at=self._context.clock.wall(),
            machine=self._context.settings.machine_id,
            group=self._context.settings.group_id,
            folder=writing.writer.folder,
            proof=seal.proof.hex(),
        )

    async def _claim(self, block_id: BlockId) -> Claim | None:
        """Return the claim of another machine on the block; None if none is known for sure."""
        claims = self._context.claims
        if not self._knows_claims:
            await claims.catch_up()
            self._knows_claims = True
        if claims.of(*block_id) is None or not await claims.catch_up():
            return None
        return claims.of(*block_id)

    # --- time and disk space

    def _lateness(self, attempt: Attempt, highwater: int) -> str:
        """Return why no more frames of *attempt* are waited for; empty while they are."""
        return attempt.progress.lateness(
            now=self._context.clock.monotonic(),
            block_timeout=self._context.settings.block_timeout,
            highwater=highwater,
            read=self.last_offset + 1,
        )

    async def _limit_open_blocks(self) -> None:
        """Reject blocks while too many are open for another one to begin.

        It would not help to wait for one of them to be persisted: while a block waits to begin,
        this partition is not read, and the open blocks get no frames.
        """
        while (count := self._attempts.count(Writing)) and (
            count >= MAX_OPEN_BLOCKS or self._context.is_full
        ):
            idle_seconds = self._context.settings.block_timeout * IDLE_SHARE
            idle_since = self._context.clock.monotonic() - idle_seconds
            await self._endings.reject(
                self._attempts.first_to_yield(idle_since=idle_since),
                f"given up for another block: {count} are open in its partition",
            )

    async def _free_space(self, *, but: Attempt | None = None) -> None:
        """Reject blocks, except *but*, that got no frame for a block timeout: others need space."""
        since = self._context.clock.monotonic() - self._context.settings.block_timeout
        for attempt in self._attempts.idle(since=since):
            if attempt is not but:
                await self._endings.reject(
                    attempt, "given up: there is no room for all that is open"
                )

    def _excuse_all(self, seconds: float) -> None:
        """Note for all attempts that nothing was read for *seconds*: the partition was paused."""
        for attempt in self._attempts.within(Orphaned, Writing, Repeated, Elsewhere):
            attempt.progress.excuse(seconds, now=self._context.clock.monotonic())
