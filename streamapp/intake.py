"""What a worker does with the records of one partition: frames in, persisted blocks out.

The promise: a record is acknowledged only when its block is persisted and Kafka has the
acknowledgement, or when it can never become part of a block and that is on record. A write
that fails is retried; no record is skipped. No Faust here; the agent is a loop around it.

A frame whose block was not seen from its first frame is an orphan: it is *not* done because
it looks useless. It waits until its block is persisted and acknowledged, or has expired. Nor
is a frame done because its block lies on disk already: the worker that persisted the block may
have died before it acknowledged it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from typing import TYPE_CHECKING, Any, Final

from streamapp import codec, wire
from streamapp.answers import Answers
from streamapp.assembly import Assembly, Step
from streamapp.errors import BlockError
from streamapp.holding import Holding
from streamapp.ledger import Ledger
from streamapp.pending import (
    AGE_TIMEOUTS,
    SLOWEST_BYTES,
    Beginning,
    Elsewhere,
    OpenBlock,
    Pending,
    Repeat,
    in_a_thread,
)
from streamapp.store.metadata import BlockFile
from streamapp.units import format_size


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from streamapp.claims import Claim
    from streamapp.desk import AttemptKey, Desk, Record

logger = logging.getLogger(__name__)

MAX_OPEN_BLOCKS: Final = 64
"""Blocks of one partition that may be open; a producer of ours has one or two."""

IDLE_SHARE: Final = 1 / 6
"""The part of the block timeout after which a block is the first to go for another one."""

MAX_ATTEMPTS: Final = 1024
"""Attempts without an open block that are remembered: closed, repeated, or never begun."""


class Intake:
    """The blocks of one partition that are begun and not persisted yet."""

    def __init__(self, topic: str, partition: int, desk: Desk, *, committed: int = 0) -> None:
        """*committed* is the group's commit: the first record is there, or it was deleted."""
        self.topic, self.partition = topic, partition
        self._committed = committed
        self._desk = desk
        self._ledger = Ledger()
        self._lock = asyncio.Lock()  # the clock's `expire` must not meet a frame half taken
        self._open: dict[AttemptKey, OpenBlock] = {}
        self._orphans: dict[AttemptKey, Pending] = {}  # without their first frame
        self._repeats: dict[AttemptKey, Repeat] = {}  # of blocks that are stored
        self._elsewhere: dict[AttemptKey, Elsewhere] = {}  # of blocks that other machines have
        self._knows_claims = False  # of all that was acknowledged before it got its partition
        self._closed: dict[AttemptKey, None] = {}
        self._answers = Answers(topic, partition, desk)
        place = f"{topic}-{partition}"
        self._holding = Holding(place, desk, gone_on=self._nobody_is_late)

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

    async def take(self, record: Record) -> None:
        """Do what *record* asks for; return when it needs no more of us for now."""
        async with self._lock:
            missing = self._missing_before(record)
            if self._ledger.enter(
                record.offset, generation=record.generation, ack=record.ack, stamp=record.stamp
            ):
                self._forget()
            elif missing:
                await self._answers.deleted_unread(record.offset - missing, record.offset)
            try:
                frame = wire.parse(record.headers)
            except BlockError as error:
                await self._answers.set_aside(record, str(error))
                self._ledger.settle([record.offset])
                return
            await self._take_frame(frame, record)

    async def expire(self, *, highwater: int) -> None:
        """Give up blocks of which no frame came for long; the partition ends at *highwater*."""
        if self._lock.locked():
            return
        async with self._lock:
            for key, block in list(self._open.items()):
                if reason := self._lateness(block, highwater):
                    await self._reject(key, block, f"given up: {reason}")
            if self._desk.without_room:
                await self._make_room()
            for key, orphans in list(self._orphans.items()):
                if self._lateness(orphans, highwater):
                    self._give_up_orphans(key)
            for attempts, end in self._stored_attempts():
                for key, pending in list(attempts.items()):
                    # The end of one may be that of others.
                    if key in attempts and self._lateness(pending, highwater):
                        await end(key)

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
        self._holding.go_on()

    async def _take_frame(self, frame: wire.Frame, record: Record) -> None:
        key = (frame.file_id, frame.block, frame.attempt)
        if key in self._closed:
            self._ledger.settle([record.offset])
            return
        if key in self._elsewhere:
            await self._take_elsewhere(key, frame, record)
            return
        if frame.meta and key not in self._open and key not in self._repeats:
            await self._begin(key, frame, frame.meta, record)
        block = self._open.get(key)
        if block is not None:
            await self._take_open(key, block, frame, record)
        elif key not in self._closed and key not in self._elsewhere:
            await self._take_repeated_or_orphan(key, frame, record)

    def _missing_before(self, record: Record) -> int:
        """Return how many offsets there are between the last record and this one.

        Nothing is compacted or transactional on the topic, so its offsets have no gaps, but
        for what retention deleted before it was read.
        """
        expected = self.last_offset + 1 or self._committed
        return max(0, record.offset - expected) if expected else 0

    async def _begin(
        self, key: AttemptKey, frame: wire.Frame, meta: wire.BlockMeta, record: Record
    ) -> None:
        """Open the block, or find out that it is persisted already or can never be."""
        try:
            wire.check_identity(frame.file_id, meta)
        except BlockError as error:
            await self._refuse(key, meta, str(error), frame, record)
            return
        stored = await self._stored(key)
        if stored is not None:
            self._repeats[key] = Repeat(stored)
            return
        if claim := await self._claim(key):
            self._elsewhere[key] = Elsewhere(claim, meta)
            await self._take_elsewhere(key, frame, record)
            return
        await self._make_place()
        await self._desk.may_begin()
        beginning = Beginning(
            lambda: self._desk.store.begin(frame.file_id, frame.block, meta),
        )
        try:
            writer = await self._holding.run(beginning.make, meanwhile=self._make_room)
        except asyncio.CancelledError:
            beginning.give_up()
            self._desk.begun_in_vain()
            raise
        except BlockError as error:  # for example a name that can be no name here
            self._desk.begun_in_vain()
            await self._refuse(key, meta, str(error), frame, record)
            return
        self._open[key] = OpenBlock(Assembly(frame, meta), writer)
        self._desk.vitals.open_blocks += 1

    async def _refuse(
        self, key: AttemptKey, meta: wire.BlockMeta, reason: str, frame: wire.Frame, record: Record
    ) -> None:
        """Quarantine the first frame of an attempt that can never become a block; reject it."""
        await self._answers.set_aside(record, reason, frame)
        await self._answers.rejected(key, meta, reason)
        self._close(key, [record.offset])

    async def _take_open(
        self, key: AttemptKey, block: OpenBlock, frame: wire.Frame, record: Record
    ) -> None:
        block.offsets.append(record.offset)
        if frame.abort:
            self._drop_open(key)
            self._close(key, block.offsets)
            return
        try:
            if block.assembly.place(frame) is Step.REPEATED:
                return  # it keeps nothing open
            await self._write(key, block, frame, record.value)
            if block.must_yield:
                await self._reject(key, block, "given up: an older block needs its room")
            elif frame.seal:
                block.assembly.check(frame)
                await self._keep(key, block, frame.seal)
        except BlockError as error:
            await self._answers.set_aside(record, str(error), frame)
            await self._reject(key, block, str(error))

    async def _write(
        self, key: AttemptKey, block: OpenBlock, frame: wire.Frame, value: bytes
    ) -> None:
        """Write what *frame* has; or, where there is no room for it, note that it must yield."""

        def work() -> None:
            if block.must_yield:
                return
            data = codec.decode(value, frame.codec, length=frame.length)
            block.writer.write(data, offset=frame.offset)
            block.assembly.add(frame, data)

        async def make_room() -> None:
            await self._make_room(but=key)
            block.must_yield = await asyncio.to_thread(lambda: block.writer.must_yield)

        await self._holding.run(work, meanwhile=make_room)
        if not block.must_yield:
            block.note(frame.frame, frame.length)
            self._desk.vitals.received(frame.length)

    async def _keep(self, key: AttemptKey, block: OpenBlock, seal: wire.Seal) -> None:
        meta = self._metadata_of(block, seal)
        async with self._desk.turns.of(key[0], key[1]):
            await self._holding.run(lambda: block.writer.commit(meta))
            del self._open[key]
            self._desk.vitals.open_blocks -= 1
            self._desk.vitals.persisted(meta.size)
            try:
                await self._answers.persisted(key[2], meta)
            finally:  # persisted, even if it is acknowledged only when it is delivered again
                self._desk.kept()
        logger.debug("kept file %s block %d", key[0], key[1])
        self._settle_whole_block(key, block.offsets)

    async def _take_repeated_or_orphan(
        self, key: AttemptKey, frame: wire.Frame, record: Record
    ) -> None:
        repeat = self._repeats.get(key)
        if repeat is None:
            stored = await self._stored(key)
            if stored is None:
                self._take_orphan(key, frame, record)
                return
            repeat = self._repeats[key] = Repeat(stored)
        repeat.offsets.append(record.offset)
        repeat.note(frame.frame, len(record.value))
        if frame.abort:
            self._close(key, self._repeats.pop(key).offsets)
        elif frame.seal:
            await self._end_repeat(key, frame.seal, record)
        elif len(self._repeats) > MAX_ATTEMPTS:
            await self._end_repeat(next(iter(self._repeats)))

    def _take_orphan(self, key: AttemptKey, frame: wire.Frame, record: Record) -> None:
        orphans = self._orphans.setdefault(key, Pending())
        orphans.offsets.append(record.offset)
        orphans.note(frame.frame, len(record.value))
        if frame.abort:
            self._close(key, [])
        elif len(self._orphans) > MAX_ATTEMPTS:
            self._give_up_orphans(next(iter(self._orphans)))

    async def _stored(self, key: AttemptKey) -> BlockFile | None:
        """Return the metadata of a block that is persisted; None when nothing tells that it is."""
        try:
            return await self._holding.run(lambda: self._desk.store.stored(key[0], key[1]))
        except BlockError as error:
            logger.warning("taken for not stored: file %s block %d: %s", key[0], key[1], error)
            return None

    async def _end_repeat(
        self, key: AttemptKey, seal: wire.Seal | None = None, record: Record | None = None
    ) -> None:
        """Publish the outcome of an attempt at a stored block; only then are its frames done.

        Without a *seal* (the rest of it does not come) what is stored counts.
        """
        repeat = self._repeats.pop(key)
        async with self._desk.turns.of(key[0], key[1]):
            # Looked at again: it may have been found bad since the first frame came.
            now = await self._stored(key)
            if now is not None and (seal is None or seal.sha256.hex() == now.sha256):
                self._desk.vitals.repeated += 1
                await self._answers.persisted(key[2], now)
                self._settle_whole_block(key, repeat.offsets)
                return
        other = ""
        if now is None or seal is None or record is None:
            reason = "what was stored was found bad meanwhile"
        else:
            other = now.sha256
            reason = f"SHA-256 {seal.sha256.hex()}, but {other} is stored already"
            await self._answers.set_aside(record, reason)
        await self._answers.rejected_repeat(key[2], repeat.stored, reason, sha256=other)
        self._close(key, repeat.offsets)

    def _stored_attempts(
        self,
    ) -> tuple[tuple[Mapping[AttemptKey, Pending], Callable[[AttemptKey], Awaitable[None]]], ...]:
        """Return the attempts at blocks that are stored, here or elsewhere, and how each ends."""
        return (self._repeats, self._end_repeat), (self._elsewhere, self._end_elsewhere)

    async def _claim(self, key: AttemptKey) -> Claim | None:
        """Return which other machine has the block; None when none is known to have it."""
        if not self._knows_claims:
            await self._desk.claims.catch_up()
            self._knows_claims = True
        is_claimed = self._desk.claims.of(key[0], key[1]) is not None
        if not is_claimed or not await self._desk.claims.catch_up():
            return None
        return self._desk.claims.of(key[0], key[1])

    async def _take_elsewhere(self, key: AttemptKey, frame: wire.Frame, record: Record) -> None:
        block = self._elsewhere[key]
        block.offsets.append(record.offset)
        block.note(frame.frame, len(record.value))
        if frame.abort:
            self._close(key, self._elsewhere.pop(key).offsets)
        elif frame.seal:
            await self._end_elsewhere(key, frame.seal)
        elif len(self._elsewhere) > MAX_ATTEMPTS:
            await self._end_elsewhere(next(iter(self._elsewhere)))

    async def _end_elsewhere(self, key: AttemptKey, seal: wire.Seal | None = None) -> None:
        """Settle the frames of a block that another machine has, if it has it still.

        What was revoked meanwhile, or could not be confirmed, is rejected: it is sent again.
        """
        block = self._elsewhere.pop(key)
        is_known = await self._desk.claims.catch_up()
        claim = self._desk.claims.of(key[0], key[1]) if is_known else None
        other = ""
        if claim is None:
            reason = f"{block.claim.machine} had it, and that could not be confirmed"
        elif seal is not None and seal.sha256.hex() != claim.sha256:
            other = claim.sha256
            reason = f"SHA-256 {seal.sha256.hex()}, but {claim.machine} has stored {other}"
        else:
            self._desk.vitals.elsewhere += 1
            self._settle_whole_block(key, block.offsets)
            return
        logger.warning("rejected file %s block %d: %s", key[0], key[1], reason)
        await self._answers.rejected(key, block.meta, reason, sha256=other)
        self._close(key, block.offsets)

    async def _reject(self, key: AttemptKey, block: OpenBlock, reason: str) -> None:
        logger.warning("rejected file %s block %d: %s", key[0], key[1], reason)
        self._drop_open(key)
        await self._answers.rejected(key, block.assembly.meta, reason)
        self._close(key, block.offsets)

    def _lateness(self, pending: Pending, highwater: int) -> str:
        """Return why no more is waited for, while the partition ends at *highwater*; or nothing."""
        patience, read = self._desk.settings.block_timeout, self.last_offset + 1
        since = time.monotonic() - patience
        if pending.is_overdue(since=since, highwater=highwater, read=read):
            return f"no frame of it came for {patience:.0f} s"
        if pending.is_too_slow(patience=patience, highwater=highwater, read=read):
            return (
                f"{format_size(pending.came)} of it came, which is too slow: after "
                f"{AGE_TIMEOUTS * patience:.0f} s it must be {format_size(SLOWEST_BYTES)} a second"
            )
        return ""

    async def _make_place(self) -> None:
        """Reject the block that is idle the longest while a partition has too many open.

        Nothing more of a partition is read while it waits for its next block to begin: its
        own open blocks would wait for ever. Where none is idle, many were begun at once: the
        one of which least came goes, so that a flood of them ends no block that is well on.
        """
        while self._open and (len(self._open) >= MAX_OPEN_BLOCKS or self._desk.is_full):
            since = time.monotonic() - self._desk.settings.block_timeout * IDLE_SHARE

            def rank(key: AttemptKey, since: float = since) -> tuple[bool, int, float]:
                block = self._open[key]
                is_idle = block.last_seen < since
                return not is_idle, 0 if is_idle else block.came, block.last_seen

            key = min(self._open, key=rank)
            reason = f"given up for another block: {len(self._open)} are open in its partition"
            await self._reject(key, self._open[key], reason)

    async def _make_room(self, *, but: AttemptKey | None = None) -> None:
        """Reject what is idle for long, while there is no room for a block that waits for it."""
        since = time.monotonic() - self._desk.settings.block_timeout
        for key, block in list(self._open.items()):
            if block.last_seen < since and key != but:
                await self._reject(key, block, "given up: there is no room for all that is open")

    def _metadata_of(self, block: OpenBlock, seal: wire.Seal) -> BlockFile:
        meta, assembly = block.assembly.meta, block.assembly
        return BlockFile(
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
            stored_at=time.time(),
            machine=self._desk.settings.machine_id,
            group=self._desk.settings.group_id,
            folder=block.writer.folder,
            raw_name=meta.raw_name,
            ctime_ns=meta.ctime_ns,
            version=meta.version,
            proof=seal.proof.hex(),
        )

    def _settle_whole_block(self, key: AttemptKey, offsets: list[int]) -> None:
        """Settle every frame, of any attempt, of a block that is persisted and acknowledged."""
        for other in [k for k in self._open if k[:2] == key[:2]]:
            offsets = offsets + self._open[other].offsets
            self._drop_open(other)
        for attempts in (self._orphans, self._repeats, self._elsewhere):
            for other in [k for k in attempts if k[:2] == key[:2]]:
                offsets = offsets + attempts.pop(other).offsets
        self._ledger.settle(offsets)

    def _drop_open(self, key: AttemptKey) -> None:
        block = self._open.pop(key)
        self._desk.vitals.open_blocks -= 1
        self._desk.begun_in_vain()
        in_a_thread(block.writer.abort)

    def _close(self, key: AttemptKey, offsets: list[int]) -> None:
        """Mark an attempt as over: what came of it, and what still comes, is done at once."""
        orphans = self._orphans.pop(key, None)
        self._closed[key] = None
        _trim(self._closed)
        self._ledger.settle(offsets + orphans.offsets if orphans else offsets)

    def _give_up_orphans(self, key: AttemptKey) -> None:
        count = len(self._orphans[key].offsets)
        logger.info("gave up %d frames of file %s block %d without their first", count, *key[:2])
        self._close(key, [])

    def _nobody_is_late(self, seconds: float) -> None:
        """Nothing was read for *seconds*, while the partition was held."""
        for attempts in (self._open, self._orphans, self._repeats, self._elsewhere):
            for pending in attempts.values():
                pending.excuse(seconds)

    def _forget(self) -> None:
        for key in list(self._open):
            self._drop_open(key)
        self._orphans.clear()
        self._repeats.clear()
        self._elsewhere.clear()
        self._knows_claims = False
        self._closed.clear()


def _trim(attempts: dict[AttemptKey, Any]) -> None:
    """Forget the oldest of too many *attempts*: any producer can make up any number."""
    while len(attempts) > MAX_ATTEMPTS:
        del attempts[next(iter(attempts))]
