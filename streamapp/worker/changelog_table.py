"""Holds commits back until the tables' changelogs have what was folded.

Faust writes a table's changelog behind the agent's back, and commits the record that a row was
made of without asking whether that arrived. A worker that is killed in between, or a broker that
is gone, leaves a row that one machine alone has: nobody folds its record again. So a commit
waits for the changelogs (`streamapp.worker.consumer`), and what Kafka refused is written again.

Nor does Faust ask who else writes. A worker that was cut off or frozen may have a row on its
way that arrives only when another has long gone on from there. So each row says how far its
table had been folded: one that is older than the rows before it counts for nothing when tables
are restored, and whoever wrote it reads again what the others wrote before it. What it hides in
the changelog is written once more, because compaction would keep the late row alone. A record
that is folded again, because a crash came before its commit, makes a row of that table, and not
a late one: the row that was made of it first may never have arrived.
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
"""Rows that a database has and that are restored again: among them is the newest one that those
which came since are compared with. Each rebalance reads them, for each partition of a table."""

FOLDED: Final = "folded"
"""The header of a changelog's record: ``<topic>:<offset>`` of the newest record that its
table's partition had folded. Other than generations, offsets outlive the group."""


@logs.as_library
class ChangelogTable(faust.Table[Any, Any]):
    """A table whose rows reach its changelog before the records they are made of are done."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Faust's signature
        super().__init__(*args, **kwargs)
        self._folded: dict[int, bytes] = {}
        self._newest: dict[tuple[int, str], int] = {}  # what is folded, by partition and topic
        self._hidden: dict[bytes, tuple[int, str]] = {}

    def persisted_offset(self, tp: TP) -> int | None:
        """Return from where *tp* is restored: some rows before the end of what we have."""
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
        """Write a row to the changelog, again and again until Kafka has it."""
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
        """Begin anew: what is restored now is read from before the end of the database."""
        self._newest.clear()
        self._hidden.clear()
        await super().on_rebalance(*args, **kwargs)

    def apply_changelog_batch(self, batch: Iterable[EventT[Any]]) -> None:
        """Restore rows, but for those that came late from a worker that had lost its partition."""
        events = list(batch)
        super().apply_changelog_batch([event for event in events if not self._is_late(event)])
        for place, offset in {e.message.tp: e.message.offset for e in events}.items():
            self.data.set_persisted_offset(place, offset)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Write the rows again that late ones hide in the changelog."""
        await super().on_recovery_completed(active_tps, standby_tps)
        for key, (partition, topic) in self._hidden.items():
            if (row := self.data.get(key)) is not None:
                self._folded[partition] = self._note_folded(partition, topic)
                self._write(partition, key, row, self.key_serializer, self.value_serializer)
        self._hidden.clear()

    def _is_late(self, event: EventT[Any]) -> bool:
        """Return whether a row was folded from an older record than one before it."""
        message = event.message
        key = cast("bytes", event.key)
        self._hidden.pop(key, None)
        said = dict(cast("Any", message.headers) or ()).get(FOLDED, b"")
        topic, _, offset = bytes(said).decode("ascii", "replace").rpartition(":")
        if not (topic and offset.isdecimal()):
            return False  # of an older version, or nobody knows whose
        source = (message.partition, topic)
        known = self._newest.get(source, -1)
        self._note_folded(*source, int(offset))
        if int(offset) >= known:
            return False
        logger.warning("%s: the row at %d came late, and is not taken", message.tp, message.offset)
        self._hidden[key] = source
        return True

    def _note_folded(self, partition: int, topic: str, offset: int = -1) -> bytes:
        """Note that the record at *offset* is folded; return the header that a row has now."""
        newest = max(offset, self._newest.get((partition, topic), -1))
        self._newest[partition, topic] = newest
        return f"{topic}:{newest}".encode()

    def _on_changelog_sent(self, fut: FutureMessage) -> None:
        """Note how far of the changelog we have: up to our row, if no other one is before it."""
        metadata = fut.result()
        place, offset = metadata.topic_partition, metadata.offset
        known = self.data.persisted_offset(place)
        if offset == (-1 if known is None else known) + 1:
            self.data.set_persisted_offset(place, offset)

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
            row = self.data.get(key)
            sent = self._send(partition, key, row, self.key_serializer, self.value_serializer)

    def _write(self, partition: int, key: Any, value: Any, *serializers: Any) -> FutureMessage:  # noqa: ANN401
        """Send a row, and have commits wait until Kafka has it."""
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
