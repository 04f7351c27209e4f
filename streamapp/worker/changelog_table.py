"""A Faust table whose rows are in its changelog before their source records are committed.

For faust-streaming 0.15.3. Faust writes changelogs in the background, and commits the source
record of a row without waiting for the row. If the worker is killed in between, or the broker
fails, only this machine has the row, and nobody folds its source record again. So a commit waits
for the changelogs (`streamapp.worker.consumer`), and a row that Kafka refused is written again.

Faust also accepts rows of a worker that has lost its partition: a row that was sent before a
suspension may arrive after another worker has folded newer records. So each row has a header with
the newest source offset that its partition of the table had folded. When tables are restored, a
row that is older than the rows before it is ignored, and a worker restores from some rows before
the end of its database. Compaction would keep the late row, so the row that it hides is written
again. A source record that is folded again after a crash makes a new row and not a late one: the
first row may never have arrived.

Delete when Faust commits a source record after its rows and fences former owners of a partition.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Any, Final, cast

import faust

from faust.streams import current_event
from faust.types import TP

from streamapp.worker import logs


if TYPE_CHECKING:
    from collections.abc import Iterable

    from faust.types import EventT, FutureMessage

    from streamapp.worker.types import WorkerApp

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0

LOOK_BACK: Final = 500
"""Rows of a database that each rebalance restores again. Later rows are compared with the newest
of them."""

FOLDED: Final = "folded"
"""Header of a changelog record: ``<topic>:<offset>`` of the newest source record that the
partition had folded. Offsets, unlike generations, outlive the group."""


@logs.as_library
class ChangelogTable(faust.Table[Any, Any]):
    """A table whose rows reach its changelog before their source records are committed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Faust's signature
        super().__init__(*args, **kwargs)
        self._folded: dict[int, bytes] = {}  # the header `FOLDED` of new rows, by partition
        self._newest: dict[tuple[int, str], int] = {}  # folded offset, by partition and topic
        self._hidden: dict[bytes, tuple[int, str]] = {}  # keys of rows that a late row hides

    def persisted_offset(self, tp: TP) -> int | None:
        """Return the offset from which *tp* is restored: `LOOK_BACK` rows before the database's."""
        known = self.data.persisted_offset(tp)
        return None if known is None else max(-1, known - LOOK_BACK)

    def send_changelog(
        self,
        partition: int | None,
        key: Any,  # noqa: ANN401 - Faust's signature
        value: Any,  # noqa: ANN401
        key_serializer: Any = None,  # noqa: ANN401
        value_serializer: Any = None,  # noqa: ANN401
    ) -> FutureMessage:
        """Send a row to the changelog; commits wait until Kafka has it."""
        number = cast("int", partition)
        if (event := current_event()) is not None:
            self._folded[number] = self._note_folded(
                number, event.message.topic, event.message.offset
            )
        serializers = (
            key_serializer or self.key_serializer,
            value_serializer or self.value_serializer,
        )
        return self._write(number, key, value, *serializers)

    async def on_rebalance(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Faust's
        """Forget what the last recovery noted: the next one reads `LOOK_BACK` rows again."""
        self._newest.clear()
        self._hidden.clear()
        await super().on_rebalance(*args, **kwargs)

    def apply_changelog_batch(self, batch: Iterable[EventT[Any]]) -> None:
        """Restore rows, except late ones of a worker that had lost its partition."""
        events = list(batch)
        super().apply_changelog_batch([event for event in events if not self._is_late(event)])
        for place, offset in {e.message.tp: e.message.offset for e in events}.items():
            self.data.set_persisted_offset(place, offset)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Write the rows again that late rows hide in the changelog."""
        await super().on_recovery_completed(active_tps, standby_tps)
        for key, (partition, topic) in self._hidden.items():
            if (row := self.data.get(key)) is not None:
                self._folded[partition] = self._note_folded(partition, topic)
                self._write(partition, key, row, self.key_serializer, self.value_serializer)
        self._hidden.clear()

    def _is_late(self, event: EventT[Any]) -> bool:
        """Return whether a row was folded from an older source record than a row before it."""
        message = event.message
        key = cast("bytes", event.key)
        self._hidden.pop(key, None)
        said = dict(cast("Any", message.headers) or ()).get(FOLDED, b"")
        topic, _, offset = bytes(said).decode("ascii", "replace").rpartition(":")
        if not (topic and offset.isdecimal()):
            return False  # written by an older version or an unknown producer
        source = (message.partition, topic)
        known = self._newest.get(source, -1)
        self._note_folded(*source, int(offset))
        if int(offset) >= known:
            return False
        logger.warning("%s: the row at %d came late, and is not taken", message.tp, message.offset)
        self._hidden[key] = source
        return True

    def _note_folded(self, partition: int, topic: str, offset: int = -1) -> bytes:
        """Note that the record at *offset* is folded; return the value of the header."""
        newest = max(offset, self._newest.get((partition, topic), -1))
        self._newest[partition, topic] = newest
        return f"{topic}:{newest}".encode()

    def _on_changelog_sent(self, fut: FutureMessage) -> None:
        """Note that the database has all rows up to this one, if it had all rows before it."""
        metadata = fut.result()
        place, offset = metadata.topic_partition, metadata.offset
        known = self.data.persisted_offset(place)
        if offset == (-1 if known is None else known) + 1:
            self.data.set_persisted_offset(place, offset)

    async def _until_written(self, sent: FutureMessage, partition: int, key: bytes) -> None:
        """Return when Kafka has the row, or when its partition is assigned to another worker."""
        place = TP(self.changelog_topic.get_topic_name(), partition)
        while True:
            try:
                await sent
            except Exception as error:  # noqa: BLE001 - Kafka's clients raise any exception
                logger.warning("%s does not take a row: %r", place, error)
            else:
                return
            await asyncio.sleep(RETRY_SECONDS)
            if place not in self.app.consumer.assignment():
                return
            # The current row: an older one would replace it.
            row = self.data.get(key)
            sent = self._send(partition, key, row, self.key_serializer, self.value_serializer)

    def _write(self, partition: int, key: Any, value: Any, *serializers: Any) -> FutureMessage:  # noqa: ANN401
        """Send a row; commits wait until Kafka has it."""
        sent = self._send(partition, key, value, *serializers)
        cast("WorkerApp", self.app).pending_writes.watch(self._until_written(sent, partition, key))
        return sent

    def _send(self, partition: int, key: Any, value: Any, *serializers: Any) -> FutureMessage:  # noqa: ANN401
        folded = self._folded.get(partition)
        key_serializer, value_serializer = serializers
        return self.changelog_topic.send_soon(
            key=key,
            value=value,
            partition=partition,
            headers={FOLDED: folded} if folded else None,
            key_serializer=key_serializer,
            value_serializer=value_serializer,
            callback=self._on_changelog_sent,
            eager_partitioning=True,
        )
