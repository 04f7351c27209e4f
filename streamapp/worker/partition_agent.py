"""An agent with one actor for each partition. A revoked partition is no crash of its actor.

For faust-streaming 0.15.3. Faust cancels the actor of a revoked partition. An actor that is
inside an event (because of a full or slow disk) then counts as crashed: Faust restarts it for a
partition that another worker reads, and two restarts within 10 ms exceed its supervisor's limit,
which ends the worker. Here the actor ends and is removed. Delete when Faust does not restart a
cancelled actor.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Any, cast

import faust

from streamapp.worker import logs


if TYPE_CHECKING:
    from collections.abc import Awaitable

    from faust.types.agents import ActorRefT
    from faust.types.tuples import TP

logger = logging.getLogger(__name__)


@logs.as_library
class PartitionAgent(faust.Agent):
    """An agent whose actors end when their partition is revoked."""

    async def on_isolated_partitions_revoked(self, revoked: set[TP]) -> None:
        """End the actors of *revoked*, all at once: the rebalance waits for it."""
        actors = [self._actor_by_partition.pop(tp, None) for tp in revoked]
        await asyncio.gather(*(self._end(actor) for actor in actors if actor is not None))

    async def _end(self, actor: ActorRefT) -> None:
        """End *actor*, and remove it."""
        actor.cancel()
        await actor.stop()
        # A stream that was cancelled inside an event still counts as a reader of its partition,
        # which Faust reports as an error.
        actor.stream._channel_stop_iteration(actor.stream.channel)  # type: ignore[attr-defined] # noqa: SLF001
        self._actors.discard(actor)
        supervisor = cast("Any", self.supervisor)
        supervisor.discard(actor)
        # The supervisor replaces an actor by its index.
        supervisor._index = {known: n for n, known in enumerate(supervisor._services)}  # noqa: SLF001

    async def _execute_actor(self, coro: Awaitable[None], aref: ActorRefT) -> None:
        await super()._execute_actor(self._until_stopped(coro, aref), aref)

    @staticmethod
    async def _until_stopped(coro: Awaitable[None], actor: ActorRefT) -> None:
        """Await *coro*; return when it is cancelled because *actor* is stopped."""
        try:
            await coro
        except asyncio.CancelledError:
            if not actor.should_stop:
                raise
            logger.debug("%s was stopped while it took an event", actor)
