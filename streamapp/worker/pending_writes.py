"""The rows that a worker has sent to changelogs and that Kafka has not confirmed yet."""

from __future__ import annotations

import asyncio

from typing import TYPE_CHECKING, Any

from faust.exceptions import ProducerSendError


if TYPE_CHECKING:
    from collections.abc import Coroutine


class PendingWrites:
    """The writes that are under way, and a wait for them. Used in the event loop only."""

    def __init__(self) -> None:
        self._writes: set[asyncio.Task[None]] = set()

    def watch(self, write: Coroutine[Any, Any, None]) -> None:
        """Start *write*; commits wait for it."""
        task = asyncio.ensure_future(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def wait(self) -> None:
        """Return when all rows that were sent until now are in their changelogs.

        Raises:
            ProducerSendError: the worker stops before that.
        """
        if self._writes:
            done, _ = await asyncio.wait(tuple(self._writes))
            if any(write.cancelled() for write in done):
                message = "the worker stops before its tables' changelogs are written"
                raise ProducerSendError(message)
