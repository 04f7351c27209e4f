"""Locks each block while an outcome of it is published.

The record that a block is persisted and the record that it is lost have the same key, and the
newer one counts. So a task that reads the disk and publishes what it found holds the block's lock
until Kafka has the record.
"""

from __future__ import annotations

import asyncio
import contextlib

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class KeyedLock:
    """One lock for each block; it exists only while it is held or waited for."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self._users: dict[tuple[str, int], int] = {}

    @contextlib.asynccontextmanager
    async def of(self, file_id: str, block: int) -> AsyncIterator[None]:
        """Hold the block's lock."""
        key = (file_id, block)
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
