"""What a worker says of the records of one partition: to producers, and to whoever looks on.

Each word is counted, and each returns only when Kafka has it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from typing import TYPE_CHECKING, Any, Final

import msgspec

from streamapp.errors import StoreError
from streamapp.records import BlockAck, Quarantined


if TYPE_CHECKING:
    from streamapp.desk import AttemptKey, Desk, Record
    from streamapp.store.metadata import BlockFile
    from streamapp.wire import BlockMeta, Frame

logger = logging.getLogger(__name__)

MAX_QUARANTINED: Final = 1000
"""Records that are kept under ``quarantine/``; further ones are counted and logged only."""

MAX_QUARANTINED_BYTES: Final = 64 * 1024


class Answers:
    """Speaks for one partition."""

    def __init__(self, topic: str, partition: int, desk: Desk) -> None:
        self._topic, self._partition = topic, partition
        self._desk = desk

    async def persisted(self, attempt: int, stored: BlockFile) -> None:
        """Say that a block is persisted."""
        await self._desk.tell(self._ack(attempt, stored))

    async def rejected(
        self, key: AttemptKey, meta: BlockMeta, reason: str, *, sha256: str = ""
    ) -> None:
        """Say that an attempt at a block is over, and why: it is sent again.

        *sha256* is what another machine has stored instead.
        """
        self._desk.vitals.rejected += 1
        await self._desk.tell(
            BlockAck(
                file_id=key[0],
                block=key[1],
                attempt=key[2],
                blocks=meta.blocks,
                group=self._desk.settings.group_id,
                machine=self._desk.settings.machine_id,
                outcome="rejected",
                size=meta.size,
                sha256=sha256,
                name=meta.name,
                file_size=meta.file_size,
                block_size=meta.block_size,
                source=meta.source,
                reason=reason,
                at=time.time(),
            )
        )

    async def rejected_repeat(
        self, attempt: int, stored: BlockFile, reason: str, *, sha256: str = ""
    ) -> None:
        """Say that an attempt at a block that was stored is over, and why.

        *sha256* is what is stored instead: the producer sends a new version of its file then.
        """
        self._desk.vitals.rejected += 1
        ack = self._ack(attempt, stored)
        await self._desk.tell(
            msgspec.structs.replace(ack, outcome="rejected", reason=reason, sha256=sha256, proof="")
        )

    async def deleted_unread(self, first: int, end: int) -> None:
        """Say that records *first* to before *end* are gone; their producer sees it too."""
        reason = (
            f"Kafka deleted offsets {first} to {end - 1} before they were read: "
            "its retention is too short for this group; their blocks are sent again"
        )
        logger.error("%s-%d: %s", self._topic, self._partition, reason)
        self._desk.vitals.deleted_unread += end - first
        await self._tell_quarantined(first, reason)

    async def set_aside(self, record: Record, reason: str, frame: Frame | None = None) -> None:
        """Put a bad record on record: counted, logged, kept under ``quarantine/``, told."""
        self._desk.vitals.quarantined += 1
        where = f"{self._topic}-{self._partition}-{record.offset}"
        logger.warning("set aside %s: %s", where, reason)
        if self._desk.vitals.quarantined > MAX_QUARANTINED:
            return
        described: dict[str, Any] = {
            "topic": self._topic,
            "partition": self._partition,
            "offset": record.offset,
            "reason": reason,
            "key": repr((record.key or b"")[:200]),
            "value_bytes": len(record.value),
            "at": time.time(),
        }
        value = b"" if frame else record.value[:MAX_QUARANTINED_BYTES]
        try:
            path = str(await asyncio.to_thread(self._desk.store.set_aside, where, described, value))
        except StoreError as error:
            logger.warning("could not keep %s under quarantine: %s", where, error)
            path = ""
        await self._tell_quarantined(record.offset, reason, path=path, frame=frame)

    async def _tell_quarantined(
        self, offset: int, reason: str, *, path: str = "", frame: Frame | None = None
    ) -> None:
        await self._desk.tell(
            Quarantined(
                machine=self._desk.settings.machine_id,
                group=self._desk.settings.group_id,
                topic=self._topic,
                partition=self._partition,
                offset=offset,
                reason=reason,
                path=path,
                file_id=frame.file_id if frame else "",
                block=frame.block if frame else 0,
                at=time.time(),
            )
        )

    def _ack(self, attempt: int, stored: BlockFile) -> BlockAck:
        return stored.acknowledgement(
            group=self._desk.settings.group_id,
            machine=self._desk.settings.machine_id,
            at=time.time(),
            attempt=attempt,
        )
