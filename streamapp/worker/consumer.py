"""Adds four rules to Faust's consumer: on acknowledgements, seeks, commits and damaged batches.

For faust-streaming 0.15.3 and aiokafka 0.14.0.

Acknowledgements of a stale generation are ignored. During a rebalance Faust's stream acknowledges
events that it skips, and an agent may finish an event of a revoked partition. If nothing is
committed yet, Faust would then commit past all events before that one (faust-streaming#606).
Ignoring the acknowledgement is safe, because Kafka delivers the event again.

Records that were fetched during a seek are dropped. A seek takes one request for each partition.
Records from before and after it arrive meanwhile, and Faust would skip those in between.

A commit waits until the rows that were folded from its records are in their changelogs. Blocks are
committed as soon as they are persisted; Faust commits other records at intervals.

A batch that aiokafka cannot decode does not stop its partition: ADR 7.

Delete when faust-streaming#606 is fixed, Faust reads without gaps after a seek, and commits wait
for changelogs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging

from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from aiokafka.consumer import fetcher
from faust.transport.drivers import aiokafka as driver
from mode import Service

from streamapp.kafka import topic_admin
from streamapp.worker import logs
from streamapp.worker.aiokafka_overrides import batches, responses
from streamapp.worker.aiokafka_overrides import fetcher as own_fetcher


if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from collections.abc import Set as AbstractSet

    from faust.tables.manager import TableManager
    from faust.types.transports import ConsumerT
    from faust.types.tuples import TP, Message

    from streamapp.worker.types import WorkerApp

logger = logging.getLogger(__name__)

SEEK_RETRY_SECONDS: Final = 0.5
"""Seconds until a seek that failed is tried again."""

COMMIT_GAP_SECONDS: Final = 0.05
"""Seconds between two commits of blocks, so that many small blocks share one commit."""


@logs.as_library
class OrderedCommitConsumer(driver.Consumer):
    """A consumer that ignores stale acknowledgements, and reads without gaps after a seek."""

    _seeks = 0
    """Grows when a seek begins and when it ends."""

    _is_astray = False
    """Whether records that were fetched during a seek were dropped: the position is too far."""

    _unread: AbstractSet[TP] = frozenset()
    """Partitions with a committed offset that have yielded no record since the last seek."""

    _block_done: asyncio.Event | None = None
    """Set when a record of the blocks' topic is acknowledged and not committed yet."""

    def ack(self, message: Message) -> bool:
        """Acknowledge *message*, unless its generation is stale; return whether it is new."""
        current = self.app.consumer_generation_id
        if message.generation_id != current or not self.app.flow_control.is_active():
            return False
        is_new = super().ack(message)
        if is_new and self._block_done is not None and message.topic == self._blocks_topic:
            self._block_done.set()
        return is_new

    @Service.task
    async def _commit_blocks(self) -> None:
        """Commit as soon as a block is persisted, so that no other worker writes it again."""
        self._block_done = asyncio.Event()
        while not self.should_stop:
            await self._block_done.wait()
            self._block_done.clear()
            is_busy = self._commit_fut is not None
            await self.commit(cast("Any", {self._blocks_topic}))
            if is_busy:  # another commit ran, which may have begun before the block was persisted
                self._block_done.set()
            await self.sleep(COMMIT_GAP_SECONDS)

    @functools.cached_property
    def _blocks_topic(self) -> str:
        return topic_admin.names(cast("WorkerApp", self.app).settings).data_blocks

    async def _handle_attached(self, commit_offsets: Mapping[TP, int]) -> None:
        """Wait for the changelogs before a commit of the records that rows were folded from."""
        await super()._handle_attached(commit_offsets)
        if any(tp.topic != self._blocks_topic for tp in commit_offsets):
            await cast("WorkerApp", self.app).pending_writes.wait()

    async def perform_seek(self) -> None:
        """Seek to the committed offsets, or to the beginning of partitions without one."""
        self._seeks += 1
        try:
            await super().perform_seek()
            await self._seek_uncommitted()
            self._unread = {tp for tp, offset in self._committed_offset.items() if offset}
        finally:
            self._seeks += 1

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109
        """Yield records; those that were fetched during a seek are dropped, and fetched again."""
        if self._is_astray and not await self._went_back():
            return
        seeks = self._seeks
        async with contextlib.aclosing(cast("Any", super().getmany(timeout))) as records:
            async for tp, message in records:
                if seeks != self._seeks:
                    break
                self._note_first(tp, message.offset)
                yield tp, message
        self._is_astray = seeks != self._seeks

    async def _went_back(self) -> bool:
        """Seek to the committed offsets again; return whether that succeeded."""
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - for example a rebalance, or a broker that fails
            logger.warning("cannot go back to what is committed: %r", error)
            await self.sleep(SEEK_RETRY_SECONDS)
            return False
        return True

    async def _seek_uncommitted(self) -> None:
        """Seek to the beginning of partitions without a commit, which aiokafka does not do."""
        changelogs = cast("TableManager", self.app.tables).changelog_topics
        uncommitted = [
            tp
            for tp in self.assignment()
            if tp.topic not in changelogs and not self._committed_offset[tp]
        ]
        if uncommitted:
            for tp, offset in (await self.earliest_offsets(*uncommitted)).items():
                await self.seek(tp, offset)

    def _note_first(self, tp: TP, offset: int) -> None:
        """Count the records between the commit and *offset*, the first record read, as done.

        Kafka has deleted them.
        """
        if tp in self._unread:
            self._unread -= {tp}
            committed = self._committed_offset[tp]
            if committed and offset > committed:
                self._gap[tp].addi(committed, offset)

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset to commit; None while the record at the committed offset is not done.

        Faust allows one missing record there, because it cannot know whether it was deleted.
        """
        if committed := self._committed_offset[tp]:
            is_done = committed in self._acked_index[tp] or self._gap[tp].overlaps(committed)
            if not is_done:
                return None
        return super()._new_offset(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Count deleted records as done; Faust would count the record after them as well."""
        await super()._add_gap(tp, offset_from, offset_to - 1)


class OrderedCommitTransport(driver.Transport):
    """The aiokafka transport with `OrderedCommitConsumer`."""

    Consumer: ClassVar[type[ConsumerT]] = OrderedCommitConsumer


def install_overrides(*, on_response: Callable[[], None]) -> None:
    """Install `streamapp.worker.aiokafka_overrides` in this process; for workers only.

    *on_response* is called for each response of a broker. aiokafka has no hook: its fetcher looks
    the class up by this name in its own module.
    """
    fetcher.MemoryRecords = batches.MemoryRecords
    responses.receive_straight(on_response=on_response)
    own_fetcher.ask_soon_again()
