"""The lease: after a gap nothing is written until Kafka could have said that we are out."""

from types import SimpleNamespace

import pytest

from streamapp.worker.session_guard import SessionGuard


@pytest.fixture
def clock():
    """A clock that stands still until a test moves it."""
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def session(clock):
    """The lease of a worker whose session times out after 10 s."""
    return SessionGuard(10, clock=lambda: clock.now)


def test_without_a_gap(session, clock):
    """Who asks often enough is never in doubt, however long it runs."""
    for _ in range(100):
        clock.now += 4.9

        assert session.seconds_until_safe() == 0


def test_gap(session, clock):
    """After a gap all are in doubt for a while, whoever noticed it; then no more."""
    clock.now += 60

    assert [5, 5] == [session.seconds_until_safe(), session.seconds_until_safe()]
    clock.now += 4
    assert session.seconds_until_safe() == 1
    clock.now += 1
    assert session.seconds_until_safe() == 0


def test_second_gap(session, clock):
    """A gap within the doubt begins it anew."""
    for _ in range(2):
        clock.now += 6

        assert session.seconds_until_safe() == 5
