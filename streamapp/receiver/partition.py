"""What a worker does with the records of one partition: frames in, persisted blocks out.

The promise: a record is acknowledged only when its block is persisted and Kafka has the
acknowledgement, or when it can never become part of a block and that is on record. A write
that fails is retried; no record is skipped. No Faust here; the agent is a loop around it.

A frame whose block was not seen from its first frame is an orphan: it is *not* done because
it looks useless. It waits until its block is persisted and acknowledged, or has expired. Nor
is a frame done because its block lies on disk already: the worker that persisted the block may
have died before it acknowledged it. The phases of an attempt are in `streamapp.receiver.attempts`.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Final

from streamapp.errors import BlockError
from streamapp.protocol import compression, frames
from streamapp.receiver.assembly import Assembly, Step
from streamapp.receiver.attempts import (
    AGE_TIMEOUTS,
    SLOWEST_BYTES,
    Attempt,
    Attempts,
    Closed,
    Elsewhere,
    Ending,
    Orphaned,
    PendingWriter,
    Repeated,
    Writing,
    in_a_thread,
)
from streamapp.receiver.backpressure import StoreRetry
from streamapp.receiver.context import AttemptId
from streamapp.receiver.ledger import Ledger
from streamapp.receiver.outcomes import OutcomePublisher
from streamapp.store.metadata import BlockMetadata, Rejection
from streamapp.units import format_size


if TYPE_CHECKING:
    from streamapp.receiver.attempts import Phase
    from streamapp.receiver.context import BlockId, Claim, InboundRecord, WorkerContext

logger = logging.getLogger(__name__)

MAX_OPEN_BLOCKS: Final = 64
"""Blocks of one partition that may be written at once; a producer of ours has one or two."""

IDLE_SHARE: Final = 1 / 6
"""The part of the block timeout after which a block is the first to go for another one."""

MAX_ATTEMPTS: Final = 1024
"""Attempts in each phase but Writing that are remembered: anybody can make up any number."""


class PartitionReceiver:
    """The blocks of one partition that are begun and not persisted yet."""

    def __init__(
        self, topic: str, partition: int, context: WorkerContext, *, committed: int = 0
    ) -> None:
        """*committed* is the group's commit: the first record is there, or it was deleted."""
        self.topic, self.partition = topic, partition
        self._committed = committed
        self._context = context
        self._ledger = Ledger()
        self._lock = asyncio.Lock()  # the clock's `expire` must not meet a frame half taken
        self._attempts = Attempts()
        self._knows_claims = False  # of all that was acknowledged before it got its partition
        self._outcomes = OutcomePublisher(topic, partition, context)
        self._store_retry = StoreRetry(
            f"{topic}-{partition}", context, gone_on=self._nobody_is_late
        )

    @property
    def safe_offset(self) -> int | None:
        """The oldest offset that is not done; Kafka's commit stays below it."""
        return self._ledger.safe_offset

    @property
    def safe_stamp(self) -> float | None:
        """When the oldest record that is not done was written; None when all is done."""
        return self._ledger.safe_stamp

    @property
    def last_offset(self) -> int:
        """The newest offset that was taken; -1 before the first."""
        return self._ledger.last_offset

    async def take(self, record: InboundRecord) -> None:
        """Do what *record* asks for; return when it needs no more of us for now."""
        async with self._lock:
            missing = self._missing_before(record)
            if self._ledger.enter(
                record.offset, generation=record.generation, ack=record.ack, stamp=record.stamp
            ):
                self._forget()
            elif missing:
                await self._outcomes.deleted_unread(record.offset - missing, record.offset)
            try:
                frame = frames.parse(record.headers)
            except BlockError as error:
                await self._outcomes.set_aside(record, str(error))
                self._ledger.settle([record.offset])
                return
            await self._take_frame(frame, record)

    async def expire(self, *, highwater: int) -> None:
        """End the attempts of which no frame came for long; the partition ends at *highwater*."""
        if self._lock.locked():
            return
        async with self._lock:
            for attempt in self._attempts.within(Writing):
                if reason := self._lateness(attempt, highwater):
                    await self._reject(attempt, f"given up: {reason}")
            if self._context.without_room:
                await self._make_room()
            for attempt in self._attempts.within(Orphaned, Repeated, Elsewhere):
                # The end of one may have been that of others.
                if not isinstance(attempt.phase, Closed) and self._lateness(attempt, highwater):
                    await self._end(attempt)

    async def forget_older(self, generation: int) -> None:
        """Discard what was begun before *generation*: it is delivered again, here or elsewhere."""
        if self._lock.locked():
            return
        async with self._lock:
            if self._ledger.void_unless(generation):
                self._forget()

    def drop(self) -> None:
        """Discard what is begun and publish nothing: Kafka delivers it again."""
        self._forget()
        self._store_retry.go_on()

    def _missing_before(self, record: InboundRecord) -> int:
        """Return how many offsets there are between the last record and this one.

        Nothing is compacted or transactional on the topic, so its offsets have no gaps, but
        for what retention deleted before it was read.
        """
        expected = self._committed if self.last_offset < 0 else self.last_offset + 1
        return max(0, record.offset - expected) if expected else 0

    # --- a frame, by the phase of its attempt

    async def _take_frame(self, frame: frames.Frame, record: InboundRecord) -> None:
        attempt_id = AttemptId(frame.file_id, frame.block, frame.attempt)
        attempt = self._attempts.get(attempt_id)
        if attempt is None or isinstance(attempt.phase, Orphaned):
            phase = await self._recognize(attempt_id, frame, record)
            if phase is None:
                return
            if attempt is None or not isinstance(phase, Orphaned):
                attempt = self._move(attempt_id, phase)
        match attempt.phase:
            case Closed():
                self._ledger.settle([record.offset])
            case Writing():
                await self._take_written(attempt, attempt.phase, frame, record)
            case Orphaned() | Repeated() | Elsewhere():
                await self._take_noted(attempt, frame, record)
            case Ending():
                message = f"{attempt.id} has a frame while its outcome is on the way to Kafka"
                raise AssertionError(message)

    async def _recognize(
        self, attempt_id: AttemptId, frame: frames.Frame, record: InboundRecord
    ) -> Phase | None:
        """Return the phase that *frame* begins; None when its block can never be, and is ended."""
        if frame.meta is None:
            stored = await self._stored(attempt_id.block_id)
            return Orphaned() if stored is None else Repeated(stored)
        try:
            frames.check_identity(frame.file_id, frame.meta)
            stored = await self._stored(attempt_id.block_id)
            if stored is not None:
                return Repeated(stored)
            if claim := await self._claim(attempt_id.block_id):
                return Elsewhere(claim, frame.meta)
            await self._make_place()
            return await self._begin(frame, frame.meta)
        except BlockError as error:  # for example a name that can be no name here
            attempt = self._move(attempt_id, Ending())
            attempt.offsets.append(record.offset)
            await self._outcomes.set_aside(record, str(error), frame)
            await self._outcomes.rejected(attempt_id, frame.meta, str(error))
            self._close(attempt)
            return None

    async def _begin(self, frame: frames.Frame, meta: frames.BlockMeta) -> Writing:
        """Open a block for writing.

        Raises:
            BlockError: the block is unusable.
        """
        await self._context.begin_block()
        beginning = PendingWriter(
            lambda: self._context.store.begin(frame.file_id, frame.block, meta),
        )
        try:
            writer = await self._store_retry.run(beginning.make, meanwhile=self._make_room)
        except BaseException:
            beginning.give_up()
            self._context.abandon_block()
            raise
        self._context.stats.open_blocks += 1
        return Writing(Assembly(frame, meta), writer)

    async def _take_written(
        self, attempt: Attempt, writing: Writing, frame: frames.Frame, record: InboundRecord
    ) -> None:
        attempt.offsets.append(record.offset)
        if frame.abort:
            self._close(attempt)
            return
        try:
            if writing.assembly.place(frame) is Step.REPEATED:
                return  # it keeps nothing open
            await self._write(attempt, writing, frame, record.value)
            if writing.must_yield:
                await self._reject(attempt, "given up: an older block needs its room")
            elif frame.seal:
                writing.assembly.check(frame)
                await self._persist(attempt, writing, frame.seal)
        except BlockError as error:
            await self._outcomes.set_aside(record, str(error), frame)
            await self._reject(attempt, str(error))

    async def _take_noted(
        self, attempt: Attempt, frame: frames.Frame, record: InboundRecord
    ) -> None:
        """Note a frame that is not written; its attempt ends with the last one."""
        attempt.offsets.append(record.offset)
        attempt.note(frame.frame, len(record.value), now=self._now())
        phase = type(attempt.phase)
        if frame.abort:
            self._close(attempt)
        elif frame.seal and phase is not Orphaned:
            await self._end(attempt, frame.seal, record)
        elif self._attempts.count(phase) > MAX_ATTEMPTS:
            await self._end(self._attempts.within(phase)[0])

    # --- a block that is written

    async def _write(
        self, attempt: Attempt, writing: Writing, frame: frames.Frame, value: bytes
    ) -> None:
        """Write what *frame* has; or, where there is no room for it, note that it must yield."""

        def work() -> None:
            if writing.must_yield:
                return
            data = compression.decode(value, frame.codec, length=frame.length)
            writing.writer.write(data, offset=frame.offset)
            writing.assembly.add(frame, data)

        async def make_room() -> None:
            await self._make_room(but=attempt)
            writing.must_yield = await asyncio.to_thread(lambda: writing.writer.must_yield)

        await self._store_retry.run(work, meanwhile=make_room)
        if not writing.must_yield:
            attempt.note(frame.frame, frame.length, now=self._now())
            self._context.stats.received(frame.length)

    async def _persist(self, attempt: Attempt, writing: Writing, seal: frames.Seal) -> None:
        meta = self._metadata_of(writing, seal)
        async with self._context.locks.of(*attempt.id.block_id):
            await self._store_retry.run(lambda: writing.writer.commit(meta))
            self._move(attempt.id, Ending())
            self._context.stats.open_blocks -= 1
            self._context.stats.persisted(meta.size)
            try:
                await self._outcomes.stored(attempt.id.attempt, meta)
            finally:  # persisted, even if it is acknowledged only when it is delivered again
                self._context.finish_block()
        logger.debug("persisted %s", attempt.id)
        self._settle_block(attempt.id.block_id)

    def _metadata_of(self, writing: Writing, seal: frames.Seal) -> BlockMetadata:
        meta, assembly = writing.assembly.meta, writing.assembly
        return BlockMetadata(
            file_id=assembly.file_id,
            name=meta.name,
            file_size=meta.file_size,
            blocks=meta.blocks,
            block_size=meta.block_size,
            block=assembly.block,
            start=meta.start,
            end=meta.end,
            size=meta.size,
            sha256=assembly.sha256.hex(),
            source=meta.source,
            mtime_ns=meta.mtime_ns,
            sent_ns=meta.sent_ns,
            stored_at=self._context.clock.wall(),
            machine=self._context.settings.machine_id,
            group=self._context.settings.group_id,
            folder=writing.writer.folder,
            raw_name=meta.raw_name,
            ctime_ns=meta.ctime_ns,
            version=meta.version,
            proof=seal.proof.hex(),
        )

    # --- a block that is stored, here or elsewhere

    async def _stored(self, block_id: BlockId) -> BlockMetadata | None:
        """Return the metadata of a block that is persisted; None when nothing tells that it is."""
        try:
            return await self._store_retry.run(lambda: self._context.store.stored(*block_id))
        except BlockError as error:
            logger.warning("taken for not stored: file %s block %d: %s", *block_id, error)
            return None

    async def _claim(self, block_id: BlockId) -> Claim | None:
        """Return which other machine has the block; None when none is known to have it."""
        claims = self._context.claims
        if not self._knows_claims:
            await claims.catch_up()
            self._knows_claims = True
        if claims.of(*block_id) is None or not await claims.catch_up():
            return None
        return claims.of(*block_id)

    async def _end(
        self,
        attempt: Attempt,
        seal: frames.Seal | None = None,
        record: InboundRecord | None = None,
    ) -> None:
        """End an attempt that is not written: its last frame came, or no more is waited for."""
        match attempt.phase:
            case Repeated() as phase:
                await self._end_repeated(attempt, phase, seal, record)
            case Elsewhere() as phase:
                await self._end_elsewhere(attempt, phase, seal)
            case Orphaned():
                count = len(attempt.offsets)
                logger.info("gave up %d frames of %s without their first", count, attempt.id)
                self._close(attempt)

    async def _end_repeated(
        self,
        attempt: Attempt,
        repeated: Repeated,
        seal: frames.Seal | None,
        record: InboundRecord | None,
    ) -> None:
        """Publish the outcome of an attempt at a stored block; only then are its frames done.

        Without a *seal* (the rest of it does not come) what is stored counts.
        """
        self._move(attempt.id, Ending())
        async with self._context.locks.of(*attempt.id.block_id):
            # Looked at again: it may have been found bad since the first frame came.
            now = await self._stored(attempt.id.block_id)
            if now is not None and (seal is None or seal.sha256.hex() == now.sha256):
                self._context.stats.repeated += 1
                await self._outcomes.stored(attempt.id.attempt, now)
                self._settle_block(attempt.id.block_id)
                return
        other = ""
        if now is None or seal is None or record is None:
            reason = "what was stored was found bad meanwhile"
        else:
            other = now.sha256
            reason = f"SHA-256 {seal.sha256.hex()}, but {other} is stored already"
            await self._outcomes.set_aside(record, reason)
        rejection = Rejection(reason, other)
        await self._outcomes.stored(attempt.id.attempt, repeated.stored, rejection)
        self._close(attempt)

    async def _end_elsewhere(
        self, attempt: Attempt, elsewhere: Elsewhere, seal: frames.Seal | None
    ) -> None:
        """Settle the frames of a block that another machine has, if it has it still.

        What was revoked meanwhile, or could not be confirmed, is rejected: it is sent again.
        """
        self._move(attempt.id, Ending())
        is_known = await self._context.claims.catch_up()
        claim = self._context.claims.of(*attempt.id.block_id) if is_known else None
        other = ""
        if claim is None:
            reason = f"{elsewhere.claim.machine} had it, and that could not be confirmed"
        elif seal is not None and seal.sha256.hex() != claim.sha256:
            other = claim.sha256
            reason = f"SHA-256 {seal.sha256.hex()}, but {claim.machine} has stored {other}"
        else:
            self._context.stats.elsewhere += 1
            self._settle_block(attempt.id.block_id)
            return
        logger.warning("rejected %s: %s", attempt.id, reason)
        await self._outcomes.rejected(attempt.id, elsewhere.meta, reason, sha256=other)
        self._close(attempt)

    # --- ends

    async def _reject(self, attempt: Attempt, reason: str) -> None:
        """End an attempt that is written, and have its block sent again."""
        logger.warning("rejected %s: %s", attempt.id, reason)
        writing = attempt.phase
        assert isinstance(writing, Writing)  # noqa: S101 - for the types: callers looked
        self._abandon(writing)
        self._move(attempt.id, Ending())
        await self._outcomes.rejected(attempt.id, writing.assembly.meta, reason)
        self._close(attempt)

    def _close(self, attempt: Attempt) -> None:
        """Mark an attempt as over: what came of it, and what still comes, is done at once."""
        if isinstance(attempt.phase, Writing):
            self._abandon(attempt.phase)
        self._move(attempt.id, Closed())
        offsets, attempt.offsets = attempt.offsets, []
        if self._attempts.count(Closed) > MAX_ATTEMPTS:
            self._attempts.remove(self._attempts.within(Closed)[0])
        self._ledger.settle(offsets)

    def _settle_block(self, block_id: BlockId) -> None:
        """Settle every frame, of any attempt, of a block that is persisted and acknowledged."""
        offsets: list[int] = []
        for attempt in self._attempts.of_block(block_id):
            if isinstance(attempt.phase, Writing):
                self._abandon(attempt.phase)
            offsets += attempt.offsets
            self._attempts.remove(attempt)
        self._ledger.settle(offsets)

    def _abandon(self, writing: Writing) -> None:
        self._context.stats.open_blocks -= 1
        self._context.abandon_block()
        in_a_thread(writing.writer.abort)

    def _forget(self) -> None:
        for attempt in self._attempts.within(Writing):
            if isinstance(attempt.phase, Writing):
                self._abandon(attempt.phase)
        self._attempts.clear()
        self._knows_claims = False

    # --- time and room

    def _now(self) -> float:
        return self._context.clock.monotonic()

    def _move(self, attempt_id: AttemptId, phase: Phase) -> Attempt:
        return self._attempts.move(attempt_id, phase, now=self._now())

    def _lateness(self, attempt: Attempt, highwater: int) -> str:
        """Return why no more is waited for, while the partition ends at *highwater*; or nothing."""
        patience, read, now = (
            self._context.settings.block_timeout,
            self.last_offset + 1,
            self._now(),
        )
        if attempt.is_overdue(since=now - patience, highwater=highwater, read=read):
            return f"no frame of it came for {patience:.0f} s"
        if attempt.is_too_slow(now=now, patience=patience, highwater=highwater, read=read):
            return (
                f"{format_size(attempt.came)} of it came, which is too slow: after "
                f"{AGE_TIMEOUTS * patience:.0f} s it must be {format_size(SLOWEST_BYTES)} a second"
            )
        return ""

    async def _make_place(self) -> None:
        """Reject the block that is idle the longest while a partition has too many open.

        Nothing more of a partition is read while it waits for its next block to begin: its
        own open blocks would wait for ever. Where none is idle, many were begun at once: the
        one of which least came goes, so that a flood of them ends no block that is well on.
        """
        while (count := self._attempts.count(Writing)) and (
            count >= MAX_OPEN_BLOCKS or self._context.is_full
        ):
            since = self._now() - self._context.settings.block_timeout * IDLE_SHARE

            def rank(attempt: Attempt, since: float = since) -> tuple[bool, int, float]:
                is_idle = attempt.last_seen < since
                return not is_idle, 0 if is_idle else attempt.came, attempt.last_seen

            attempt = min(self._attempts.within(Writing), key=rank)
            await self._reject(
                attempt, f"given up for another block: {count} are open in its partition"
            )

    async def _make_room(self, *, but: Attempt | None = None) -> None:
        """Reject what is idle for long, while there is no room for a block that waits for it."""
        since = self._now() - self._context.settings.block_timeout
        for attempt in self._attempts.within(Writing):
            if attempt.last_seen < since and attempt is not but:
                await self._reject(attempt, "given up: there is no room for all that is open")

    def _nobody_is_late(self, seconds: float) -> None:
        """Nothing was read for *seconds*, while the partition was held."""
        for attempt in self._attempts.within(Orphaned, Writing, Repeated, Elsewhere):
            attempt.excuse(seconds, now=self._now())
