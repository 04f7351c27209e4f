"""One answer about a block at a time.

The record that a block is persisted and the record that it was lost share a key, and the later
one counts. Whoever looks at the disk and then says what is there holds the block's turn
meanwhile, so that nobody says the opposite in between, while Kafka is slow to take it.
"""

from __future__ import annotations

import asyncio
import contextlib

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class KeyedLock:
    """The turns of all blocks; one that nobody holds or waits for costs nothing."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self._wanted: dict[tuple[str, int], int] = {}

    @contextlib.asynccontextmanager
    async def of(self, file_id: str, block: int) -> AsyncIterator[None]:
        """Wait for the block's turn, and hold it."""
        key = (file_id, block)
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._wanted[key] = self._wanted.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._wanted[key] -= 1
            if not self._wanted[key]:
                del self._wanted[key], self._locks[key]
