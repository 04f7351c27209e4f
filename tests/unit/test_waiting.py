"""The two ways to wait: they return at once when it holds, and fail when it never does."""

import itertools

import pytest

from tests.waiting import eventually, wait_for


async def test_eventually_fails_in_time():
    """A wait for something that never comes fails the test within its limit."""
    with pytest.raises(TimeoutError):
        await eventually(lambda: False, within=0.02)


async def test_eventually_asks_again():
    """A condition that holds later is seen."""
    asked = itertools.count()

    await eventually(lambda: next(asked) == 3)

    assert 4 == next(asked)


def test_wait_for_returns_what_it_saw():
    """The value of the condition is at hand, so nothing has to be asked twice."""
    values = iter([None, 0, "ready"])

    assert "ready" == wait_for(lambda: next(values), within=1, what="a value", every=0)


def test_wait_for_says_what_is_missing():
    """The failure names what was waited for, and what was seen last."""
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for a broker; last seen: \[\]"):
        wait_for(list, within=0.01, what="a broker", every=0)
