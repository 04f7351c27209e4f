"""Waiting for an effect, never for a fixed time."""

import asyncio
import time


async def eventually(condition, *, within=2.0):
    """Wait until *condition* holds, and fail the test if it does not *within* seconds.

    An agent that awaits has not finished when ``put()`` returns, and leaving
    ``test_context()`` cancels it: wait for the effect, never for a fixed time.
    """
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - the condition is not ours to signal
            await asyncio.sleep(0.005)


def wait_for(condition, *, within, what, every=0.05):
    """Return the first true value of *condition*; fail, naming *what*, after *within* seconds.

    For what other processes do: *condition* is asked *every* so many seconds.
    """
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within:g} s for {what}; last seen: {value!r}")
        time.sleep(every)
    return value
