"""Holds commits back until the tables' changelogs have what was folded.

Faust writes a table's changelog behind the agent's back, and commits the record that a row was
made of without asking whether that arrived. A worker that is killed in between, or a broker that
is gone, leaves a row that one machine alone has: nobody folds its record again. So a commit
waits for the changelogs (`streamapp.transport`), and what Kafka refused is written again.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Any, Final, cast

import faust

from faust.exceptions import ProducerSendError
from faust.types import TP


if TYPE_CHECKING:
    from collections.abc import Coroutine

    from faust.types import FutureMessage

    from streamapp.app import StreamApp

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0


class Changelogs:
    """What was written to tables and is not in their changelogs yet. For the event loop alone."""

    def __init__(self) -> None:
        self._writes: set[asyncio.Task[None]] = set()

    def watch(self, write: Coroutine[Any, Any, None]) -> None:
        """Have commits wait for *write*, which begins."""
        task = asyncio.ensure_future(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def wait(self) -> None:
        """Return when all that was written until now is in the changelogs.

        Raises:
            ProducerSendError: the worker stops, and some of it is not.
        """
        if self._writes:
            done, _ = await asyncio.wait(tuple(self._writes))
            if any(write.cancelled() for write in done):
                message = "the worker stops before its tables' changelogs are written"
                raise ProducerSendError(message)


class SafeTable(faust.Table[Any, Any]):
    """A table whose rows reach its changelog before the records they are made of are done."""

    def send_changelog(
        self,
        partition: int | None,
        key: Any,  # noqa: ANN401 - Faust's signature
        value: Any,  # noqa: ANN401
        key_serializer: Any = None,  # noqa: ANN401
        value_serializer: Any = None,  # noqa: ANN401
    ) -> FutureMessage:
        """Write a row to the changelog, again and again until Kafka has it."""
        sent = super().send_changelog(partition, key, value, key_serializer, value_serializer)
        number = cast("int", sent.message.partition)
        cast("StreamApp", self.app).changelogs.watch(self._until_written(sent, number, key))
        return sent

    async def _until_written(self, sent: FutureMessage, partition: int, key: bytes) -> None:
        """Return when Kafka has the row, or another worker has its partition and folds it anew."""
        place = TP(self.changelog_topic.get_topic_name(), partition)
        while True:
            try:
                await sent
            except Exception as error:  # noqa: BLE001 - whatever Kafka's client raises: try again
                logger.warning("%s does not take a row: %r", place, error)
            else:
                return
            await asyncio.sleep(RETRY_SECONDS)
            if place not in self.app.consumer.assignment():
                return
            # What the row is by now: an older one would come over it.
            sent = super().send_changelog(partition, key, self.data.get(key))
