"""What a worker says of the records of one partition: to producers, and to whoever looks on.

Each word is counted, and each returns only when Kafka has it.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Any, Final

from streamapp.errors import StoreError
from streamapp.protocol.messages import BlockAck, Quarantined


if TYPE_CHECKING:
    from streamapp.protocol.frames import BlockMeta, Frame
    from streamapp.receiver.context import AttemptId, InboundRecord, WorkerContext
    from streamapp.store.metadata import BlockMetadata, Rejection

logger = logging.getLogger(__name__)

MAX_QUARANTINED: Final = 1000
"""Records that are kept under ``quarantine/``; further ones are counted and logged only."""

MAX_QUARANTINED_BYTES: Final = 64 * 1024


class OutcomePublisher:
    """Speaks for one partition."""

    def __init__(self, topic: str, partition: int, context: WorkerContext) -> None:
        self._topic, self._partition = topic, partition
        self._context = context

    async def stored(
        self, attempt: int, stored: BlockMetadata, rejection: Rejection | None = None
    ) -> None:
        """Publish that a block is persisted; or, with *rejection*, that *attempt* is over."""
        if rejection:
            self._context.stats.rejected += 1
        await self._context.publish(
            stored.acknowledgement(
                group=self._context.settings.group_id,
                machine=self._context.settings.machine_id,
                at=self._context.clock.wall(),
                attempt=attempt,
                rejection=rejection,
            )
        )

    async def rejected(
        self, attempt_id: AttemptId, meta: BlockMeta, reason: str, *, sha256: str = ""
    ) -> None:
        """Say that an attempt at a block is over, and why: it is sent again.

        *sha256* is what another machine has stored instead.
        """
        self._context.stats.rejected += 1
        await self._context.publish(
            BlockAck(
                file_id=attempt_id.file_id,
                block=attempt_id.block,
                attempt=attempt_id.attempt,
                blocks=meta.blocks,
                group=self._context.settings.group_id,
                machine=self._context.settings.machine_id,
                outcome="rejected",
                size=meta.size,
                sha256=sha256,
                name=meta.name,
                file_size=meta.file_size,
                block_size=meta.block_size,
                source=meta.source,
                reason=reason,
                at=self._context.clock.wall(),
            )
        )

    async def deleted_unread(self, first: int, end: int) -> None:
        """Say that records *first* to before *end* are gone; their producer sees it too."""
        reason = (
            f"Kafka deleted offsets {first} to {end - 1} before they were read: "
            "its retention is too short for this group; their blocks are sent again"
        )
        logger.error("%s-%d: %s", self._topic, self._partition, reason)
        self._context.stats.deleted_unread += end - first
        await self._tell_quarantined(first, reason)

    async def set_aside(
        self, record: InboundRecord, reason: str, frame: Frame | None = None
    ) -> None:
        """Put a bad record on record: counted, logged, kept under ``quarantine/``, told."""
        self._context.stats.quarantined += 1
        where = f"{self._topic}-{self._partition}-{record.offset}"
        logger.warning("set aside %s: %s", where, reason)
        if self._context.stats.quarantined > MAX_QUARANTINED:
            return
        described: dict[str, Any] = {
            "topic": self._topic,
            "partition": self._partition,
            "offset": record.offset,
            "reason": reason,
            "key": repr((record.key or b"")[:200]),
            "value_bytes": len(record.value),
            "at": self._context.clock.wall(),
        }
        value = b"" if frame else record.value[:MAX_QUARANTINED_BYTES]
        try:
            path = str(
                await asyncio.to_thread(self._context.store.set_aside, where, described, value)
            )
        except StoreError as error:
            logger.warning("could not keep %s under quarantine: %s", where, error)
            path = ""
        await self._tell_quarantined(record.offset, reason, path=path, frame=frame)

    async def _tell_quarantined(
        self, offset: int, reason: str, *, path: str = "", frame: Frame | None = None
    ) -> None:
        await self._context.publish(
            Quarantined(
                machine=self._context.settings.machine_id,
                group=self._context.settings.group_id,
                topic=self._topic,
                partition=self._partition,
                offset=offset,
                reason=reason,
                path=path,
                file_id=frame.file_id if frame else "",
                block=frame.block if frame else 0,
                at=self._context.clock.wall(),
            )
        )
