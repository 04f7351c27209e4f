"""Publishes the outcomes of the blocks and records of one partition.

Each method returns when Kafka has what it published. Rejections, quarantined records and deleted
records are counted here.
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
"""Bad records that are published and written to ``quarantine/`` between two starts of a worker;
further ones are counted and logged only."""

MAX_QUARANTINED_BYTES: Final = 64 * 1024
"""Bytes of a bad record's value that are written to ``quarantine/``."""


class OutcomePublisher:
    """Publishes acknowledgements and quarantined records of one partition."""

    def __init__(self, topic: str, partition: int, context: WorkerContext) -> None:
        self._topic, self._partition = topic, partition
        self._context = context

    async def acknowledge(
        self, attempt: int, block: BlockMetadata, rejection: Rejection | None = None
    ) -> None:
        """Publish that *block* is persisted; or, with *rejection*, that *attempt* is rejected.

        `reject` is for an attempt at a block that this machine has not stored.
        """
        if rejection:
            self._context.stats.rejected += 1
        await self._context.publish(
            block.acknowledgement(
                group=self._context.settings.group_id,
                machine=self._context.settings.machine_id,
                at=self._context.clock.wall(),
                attempt=attempt,
                rejection=rejection,
            )
        )

    async def reject(
        self, attempt_id: AttemptId, meta: BlockMeta, reason: str, *, sha256: str = ""
    ) -> None:
        """Publish that an attempt is rejected, so that the block is sent again.

        *sha256*: the SHA-256, in hex, of the block that another machine has instead.
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

    async def report_deleted(self, first: int, end: int) -> None:
        """Report that Kafka deleted the records from *first* to before *end* unread."""
        reason = (
            f"Kafka deleted offsets {first} to {end - 1} before they were read: "
            "its retention is too short for this group; their blocks are sent again"
        )
        logger.error("%s-%d: %s", self._topic, self._partition, reason)
        self._context.stats.deleted_unread += end - first
        await self._publish_quarantined(first, reason)

    async def quarantine(
        self, record: InboundRecord, reason: str, frame: Frame | None = None
    ) -> None:
        """Count, log and publish a bad record, and write it to ``quarantine/``.

        *frame* is what its headers say, if they are valid; then its value is not written.
        """
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
        await self._publish_quarantined(record.offset, reason, path=path, frame=frame)

    async def _publish_quarantined(
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
