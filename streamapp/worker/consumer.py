"""Faust's transport, with the rules that it lacks: on what is stale, done, and poison.

While partitions move, Faust's pure-Python stream acknowledges events that it skips, and an
agent may still finish what it began before. Such an acknowledgement belongs to a position
that is void; with nothing committed yet Faust would commit past everything before it
(faust-streaming#606). The events come again, so refusing is safe.

Nor do they all come again by themselves. A seek takes a request for each partition, while
records go on coming in: some from before it, some after it, and the later ones hide the
earlier ones. So what was fetched meanwhile counts for nothing.

Nor is a record done when a row was made of it, but when the row's changelog has it as well.

And a record that aiokafka cannot decode must not hold up its partition for ever: ADR 7.
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

COMMIT_GAP_SECONDS: Final = 0.05
"""Between two commits of blocks: many small blocks share one, a large one hardly waits."""


@logs.as_library
class OrderedCommitConsumer(driver.Consumer):
    """A consumer that refuses stale acknowledgements, and reads without holes after a seek."""

    _seeks = 0
    _is_astray = False
    _unread: AbstractSet[TP] = frozenset()
    """Partitions with a commit of which nothing came since the last seek."""

    _block_done: asyncio.Event | None = None
    """Set when a record of the blocks' topic is done and not committed yet."""

    def ack(self, message: Message) -> bool:
        """Mark *message* as done, unless its position is void; return whether it was."""
        current = self.app.consumer_generation_id
        if message.generation_id != current or not self.app.flow_control.is_active():
            return False
        is_new = super().ack(message)
        if is_new and self._block_done is not None and message.topic == self._blocks_topic:
            self._block_done.set()
        return is_new

    @Service.task
    async def _commit_blocks(self) -> None:
        """Commit as soon as a block is done: a worker that takes over need not write it again."""
        self._block_done = asyncio.Event()
        while not self.should_stop:
            await self._block_done.wait()
            self._block_done.clear()
            is_busy = self._commit_fut is not None
            await self.commit(cast("Any", {self._blocks_topic}))
            if is_busy:  # it waited for another commit, which may have begun before the block
                self._block_done.set()
            await self.sleep(COMMIT_GAP_SECONDS)

    @functools.cached_property
    def _blocks_topic(self) -> str:
        return topic_admin.names(cast("WorkerApp", self.app).settings).data_blocks

    async def _handle_attached(self, commit_offsets: Mapping[TP, int]) -> None:
        """Do what comes before a commit: have the changelogs written of what is committed."""
        await super()._handle_attached(commit_offsets)
        if any(tp.topic != self._blocks_topic for tp in commit_offsets):
            await cast("WorkerApp", self.app).pending_writes.wait()

    async def perform_seek(self) -> None:
        """Go back to what is committed; where nothing is, to the beginning."""
        self._seeks += 1
        try:
            await super().perform_seek()
            await self._seek_uncommitted()
            self._unread = {tp for tp, offset in self._committed_offset.items() if offset}
        finally:
            self._seeks += 1

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109
        """Yield records; what was fetched across a seek is dropped, and fetched again."""
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
        """Go back to what is committed; return whether that could be done now."""
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - a rebalance, a broker that is gone: try again
            logger.warning("cannot go back to what is committed: %r", error)
            await self.sleep(SEEK_RETRY_SECONDS)
            return False
        return True

    async def _seek_uncommitted(self) -> None:
        """Do for partitions without a commit what aiokafka leaves out."""
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
        """Count as done what was deleted between the commit and the first record behind it."""
        if tp in self._unread:
            self._unread -= {tp}
            committed = self._committed_offset[tp]
            if committed and offset > committed:
                self._gap[tp].addi(committed, offset)

    def _new_offset(self, tp: TP) -> int | None:
        """Return what may be committed; None while the very next record is not done.

        Faust lets one record be missing there, because it cannot tell a deleted one from a lost.
        """
        if committed := self._committed_offset[tp]:
            is_done = committed in self._acked_index[tp] or self._gap[tp].overlaps(committed)
            if not is_done:
                return None
        return super()._new_offset(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Count what was deleted as done, and not the record behind it as well."""
        await super()._add_gap(tp, offset_from, offset_to - 1)


class OrderedCommitTransport(driver.Transport):
    """The aiokafka transport with `OrderedCommitConsumer`."""

    Consumer: ClassVar[type[ConsumerT]] = OrderedCommitConsumer


def install_overrides(*, on_response: Callable[[], None]) -> None:
    """Have this process read Kafka's answers in our way; for workers alone.

    Record batches with `streamapp.worker.aiokafka_overrides.batches`, what is around them with
    `streamapp.worker.aiokafka_overrides.responses`, and asked for with
    `streamapp.worker.aiokafka_overrides.fetcher`. *on_response* is called for each response of a
    broker.

    aiokafka has no hook for it: its fetcher takes the class by this name from its own module.
    """
    fetcher.MemoryRecords = batches.MemoryRecords
    responses.receive_straight(on_response=on_response)
    own_fetcher.ask_soon_again()
