"""After a gap, the worker writes nothing until it would know of a rebalance."""

from types import SimpleNamespace

import pytest

from streamapp.worker.session_guard import SessionGuard


@pytest.fixture
def clock():
    """A clock that stands still until a test moves it."""
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def session(clock):
    """The guard of a worker whose session times out after 10 s."""
    return SessionGuard(10, clock=lambda: clock.now)


def test_without_a_gap(session, clock):
    """A worker that asks often enough never waits, however long it runs."""
    for _ in range(100):
        clock.now += 4.9

        assert session.seconds_until_safe() == 0


def test_gap(session, clock):
    """After a gap every caller waits for a while, not only the first; then none does."""
    clock.now += 60

    assert [5, 5] == [session.seconds_until_safe(), session.seconds_until_safe()]
    clock.now += 4
    assert session.seconds_until_safe() == 1
    clock.now += 1
    assert session.seconds_until_safe() == 0


def test_second_gap(session, clock):
    """A second gap during the wait starts the wait again."""
    for _ in range(2):
        clock.now += 6

        assert session.seconds_until_safe() == 5
