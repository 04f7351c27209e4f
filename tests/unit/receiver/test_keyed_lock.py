"""One lock for each block: one task holds it at a time, and an unused lock takes no memory."""

import asyncio

import pytest

from streamapp.receiver.keyed_lock import KeyedLock


async def test_one_at_a_time():
    """Holders of one block's lock follow each other; another block's lock is free meanwhile."""
    locks, seen, may_end = KeyedLock(), [], asyncio.Event()

    async def hold(name, block):
        async with locks.of("f", block):
            seen.append(name)
            await may_end.wait()

    async with asyncio.TaskGroup() as tasks:
        for name, block in (("first", 0), ("second", 0), ("other", 1)):
            tasks.create_task(hold(name, block))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ["first", "other"] == seen
        may_end.set()

    assert ["first", "other", "second"] == seen


async def test_unused_locks_are_forgotten():
    """A lock that nobody holds or waits for is removed, also after a cancellation."""
    locks = KeyedLock()

    async def wait():
        async with locks.of("f", 0):
            pytest.fail("the lock is held")

    async with locks.of("f", 0):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert 1 == len(locks._locks)

    assert ({}, {}) == (locks._locks, locks._users)
