"""Holds a partition while the store cannot do what must be done; nothing is skipped.

A full or failing disk is waited for, as long as it takes. A disk that works, and refuses one
thing again and again, is not: the block is sent again, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Final, TypeVar

from streamapp.errors import BlockCorruptError, StoreError, StoreFullError
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streamapp.receiver.context import WorkerContext

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

HOLD_SECONDS: Final = 2.0
"""How long a store that cannot write is left alone before it is tried again."""

_REFUSED_WRITES: Final = 3
"""A block that a healthy folder refuses so often (its folder was removed) is sent again."""


class StoreRetry:
    """Does a partition's work on the store, and waits where that cannot do it."""

    def __init__(
        self, place: str, context: WorkerContext, *, gone_on: Callable[[float], None]
    ) -> None:
        """*gone_on* is called when the partition goes on, with the seconds that it was held."""
        self._place = place
        self._context = context
        self._gone_on = gone_on
        self._reason = ""
        self._since = 0.0

    async def run(
        self, operation: Callable[[], _T], *, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> _T:
        """Return what *operation* returns, in a thread; wait while the store cannot do it.

        Raises:
            BlockError: the block is unusable.
        """
        try:
            return await self._tried(operation, meanwhile)
        finally:
            self.go_on()

    def go_on(self) -> None:
        """Hold no longer."""
        if self._reason:
            self._reason = ""
            logger.info("%s goes on", self._place)
            self._context.stats.release(self._place)
            self._context.without_room.discard(self._place)
            self._gone_on(self._context.clock.monotonic() - self._since)

    async def _tried(
        self, operation: Callable[[], _T], meanwhile: Callable[[], Awaitable[None]] | None
    ) -> _T:
        refused = 0
        while True:
            try:
                return await asyncio.to_thread(operation)
            except StoreError as error:
                is_full = isinstance(error, StoreFullError)
                if not is_full and await asyncio.to_thread(self._context.store.is_healthy):
                    refused += 1
                if refused > _REFUSED_WRITES:
                    message = f"the disk refused it {counted(refused, 'time')}: {error}"
                    raise BlockCorruptError(message) from error
                self._hold(str(error))
                if is_full:
                    self._context.without_room.add(self._place)
                await asyncio.sleep(HOLD_SECONDS)
                if meanwhile is not None:
                    await meanwhile()

    def _hold(self, reason: str) -> None:
        if self._reason != reason:
            if not self._reason:
                self._since = self._context.clock.monotonic()
            self._reason = reason
            logger.error("%s holds: %s", self._place, reason)
            self._context.stats.hold(self._place, reason)
