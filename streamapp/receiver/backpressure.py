"""Retries an operation of the store, and pauses its partition meanwhile; no record is skipped.

While a disk is full or fails, an operation is retried without a limit. If the data folder is
healthy and still refuses the operation, the block is rejected after a few tries and sent again.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Final, TypeVar

from streamapp.errors import BlockCorruptError, BlockError, StoreError, StoreFullError
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streamapp.receiver.context import BlockId, WorkerContext
    from streamapp.store.metadata import BlockMetadata

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

PAUSE_SECONDS: Final = 2.0
"""Seconds between two tries of an operation that the store could not do."""

_REFUSED_WRITES: Final = 3
"""How often an operation is retried that a healthy data folder refused, for example because the
block's own folder was removed."""


class StoreRetry:
    """Runs the store's operations for one partition, in threads, and retries them."""

    def __init__(
        self, partition: str, context: WorkerContext, *, on_resume: Callable[[float], None]
    ) -> None:
        """*on_resume* is called after a pause, with its seconds."""
        self._partition = partition
        self._context = context
        self._on_resume = on_resume
        self._reason = ""
        self._since = 0.0

    async def run(
        self, operation: Callable[[], _T], *, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> _T:
        """Return the result of *operation*, which runs in a thread, after as many tries as needed.

        *meanwhile* is awaited between two tries.

        Raises:
            BlockError: the block is unusable, or a healthy data folder refused the operation.
        """
        try:
            return await self._retry(operation, meanwhile)
        finally:
            self.resume()

    async def stored(self, block_id: BlockId) -> BlockMetadata | None:
        """Return the metadata of a block that is persisted here; None when there is none.

        Unusable metadata counts as none.
        """
        try:
            return await self.run(lambda: self._context.store.stored(*block_id))
        except BlockError as error:
            logger.warning("taken for not stored: file %s block %d: %s", *block_id, error)
            return None

    def resume(self) -> None:
        """End the pause, if there is one."""
        if self._reason:
            self._reason = ""
            logger.info("%s goes on", self._partition)
            self._context.stats.release(self._partition)
            self._context.without_space.discard(self._partition)
            self._on_resume(self._context.clock.monotonic() - self._since)

    async def _retry(
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
                self._pause(str(error))
                if is_full:
                    self._context.without_space.add(self._partition)
                await asyncio.sleep(PAUSE_SECONDS)
                if meanwhile is not None:
                    await meanwhile()

    def _pause(self, reason: str) -> None:
        if self._reason != reason:
            if not self._reason:
                self._since = self._context.clock.monotonic()
            self._reason = reason
            logger.error("%s holds: %s", self._partition, reason)
            self._context.stats.hold(self._partition, reason)
