"""Ends attempts: publishes the outcome of each one, if it has one, and then settles its frames."""

from __future__ import annotations

import logging

from typing import TYPE_CHECKING

from streamapp.receiver.attempts import Closed, Elsewhere, Ending, Orphaned, Repeated, Writing
from streamapp.receiver.pending_writer import abort_in_thread
from streamapp.store.metadata import Rejection


if TYPE_CHECKING:
    from streamapp.protocol.frames import Seal
    from streamapp.receiver.attempts import Attempt, Attempts
    from streamapp.receiver.backpressure import StoreRetry
    from streamapp.receiver.context import BlockId, InboundRecord, WorkerContext
    from streamapp.receiver.ledger import Ledger
    from streamapp.receiver.outcomes import OutcomePublisher

logger = logging.getLogger(__name__)


class Endings:
    """Ends the attempts of one partition."""

    def __init__(
        self,
        context: WorkerContext,
        attempts: Attempts,
        ledger: Ledger,
        outcomes: OutcomePublisher,
        store_retry: StoreRetry,
    ) -> None:
        self._context = context
        self._attempts = attempts
        self._ledger = ledger
        self._outcomes = outcomes
        self._store_retry = store_retry

    async def end(
        self, attempt: Attempt, seal: Seal | None = None, record: InboundRecord | None = None
    ) -> None:
        """End an attempt in Orphaned, Repeated or Elsewhere.

        *seal* and *record* are those of its last frame. They are None if the attempt is ended
        without that frame.
        """
        match attempt.phase:
            case Repeated() as phase:
                await self._end_repeated(attempt, phase, seal, record)
            case Elsewhere() as phase:
                await self._end_elsewhere(attempt, phase, seal)
            case Orphaned():
                count = len(attempt.offsets)
                logger.info("gave up %d frames of %s without their first", count, attempt.id)
                self.close(attempt)

    async def reject(self, attempt: Attempt, reason: str) -> None:
        """End an attempt in Writing, and have its block sent again."""
        logger.warning("rejected %s: %s", attempt.id, reason)
        writing = attempt.phase
        assert isinstance(writing, Writing)  # noqa: S101 - for the types: every caller checks it
        self._abort_write(attempt)
        self._attempts.move(attempt.id, Ending())
        await self._outcomes.reject(attempt.id, writing.assembly.meta, reason)
        self.close(attempt)

    def close(self, attempt: Attempt) -> None:
        """Move an attempt to Closed, and settle its frames; nothing is published here."""
        self._abort_write(attempt)
        self._attempts.move(attempt.id, Closed())
        offsets, attempt.offsets = attempt.offsets, []
        if (oldest := self._attempts.surplus(Closed)) is not None:
            self._attempts.remove(oldest)
        self._ledger.settle(offsets)

    def settle_block(self, block_id: BlockId) -> None:
        """Settle the frames of all attempts at a block that is persisted and acknowledged."""
        offsets: list[int] = []
        for attempt in self._attempts.of_block(block_id):
            self._abort_write(attempt)
            offsets += attempt.offsets
            self._attempts.remove(attempt)
        self._ledger.settle(offsets)

    def discard_all(self) -> None:
        """Discard all attempts and publish nothing: Kafka delivers their frames again."""
        for attempt in self._attempts.within(Writing):
            self._abort_write(attempt)
        self._attempts.clear()

    async def _end_repeated(
        self,
        attempt: Attempt,
        repeated: Repeated,
        seal: Seal | None,
        record: InboundRecord | None,
    ) -> None:
        """Acknowledge the stored block if it has the same content, and reject the attempt if not.

        Without a *seal* the attempt's content is unknown, and the stored block is acknowledged.
        """
        self._attempts.move(attempt.id, Ending())
        async with self._context.locks.of(*attempt.id.block_id):
            # The block may have been revoked since the first frame came.
            stored = await self._store_retry.stored(attempt.id.block_id)
            if stored is not None and (seal is None or seal.sha256.hex() == stored.sha256):
                self._context.stats.repeated += 1
                await self._outcomes.acknowledge(attempt.id.attempt, stored)
                self.settle_block(attempt.id.block_id)
                return
        other = ""
        if stored is None or seal is None or record is None:
            reason = "what was stored was found bad meanwhile"
        else:
            other = stored.sha256
            reason = f"SHA-256 {seal.sha256.hex()}, but {other} is stored already"
            await self._outcomes.quarantine(record, reason)
        rejection = Rejection(reason, other)
        await self._outcomes.acknowledge(attempt.id.attempt, repeated.stored, rejection)
        self.close(attempt)

    async def _end_elsewhere(
        self, attempt: Attempt, elsewhere: Elsewhere, seal: Seal | None
    ) -> None:
        """Settle the frames of a block that another machine still has.

        If that machine has revoked the block, or its claim cannot be confirmed, or the content
        differs, the attempt is rejected.
        """
        self._attempts.move(attempt.id, Ending())
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
            self.settle_block(attempt.id.block_id)
            return
        logger.warning("rejected %s: %s", attempt.id, reason)
        await self._outcomes.reject(attempt.id, elsewhere.meta, reason, sha256=other)
        self.close(attempt)

    def _abort_write(self, attempt: Attempt) -> None:
        """Abort the writer of an attempt in Writing; do nothing in another phase."""
        if isinstance(attempt.phase, Writing):
            self._context.stats.open_blocks -= 1
            self._context.abandon_block()
            abort_in_thread(attempt.phase.writer)
