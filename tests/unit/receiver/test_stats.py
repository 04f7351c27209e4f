"""A worker's statistics: its counters, the reasons why it is paused, and its rate."""

import types

import pytest

from streamapp.kafka.broker_contact import BrokerContact
from streamapp.receiver import stats as vitals_module
from streamapp.receiver.stats import RATE_SECONDS, WorkerStats


@pytest.fixture
def clock(monkeypatch):
    """The clock, which stands still until it is moved."""
    clock = types.SimpleNamespace(now=100.0)
    clock.monotonic = clock.time = lambda: clock.now
    monkeypatch.setattr(vitals_module, "time", clock)
    return clock


def test_rate(clock):
    """The rate is that of the last seconds, and becomes 0 when no bytes come."""
    stats = WorkerStats()
    for _ in range(100):
        stats.received(1000)
        clock.now += 0.5
    assert 2000 == pytest.approx(stats.rate, rel=0.06)

    clock.now += RATE_SECONDS + 1
    assert 0 == stats.rate
    assert 0 == len(stats._recent)


def test_same_kind():
    """Partitions that wait for one disk have one reason, though their numbers differ."""
    stats = WorkerStats()
    for number in range(6):
        stats.hold(f"p{number}", f"disk full: 8 MiB free in /d, needs {number + 1} KiB")
    stats.hold("p6", "cannot write /d/x: I/O error")
    expected = "disk full: 8 MiB free in /d, needs 1 KiB; cannot write /d/x: I/O error"
    assert expected == stats.reason

    stats.release("p0")
    assert stats.reason.startswith("disk full: 8 MiB free in /d, needs 2 KiB; ")


def test_holds():
    """A worker holds while any part of it does; a reason that several have is reported once."""
    stats = WorkerStats()
    assert ("running", "") == (stats.state, stats.reason)
    for number in range(3):
        stats.hold(f"p{number}", "disk full")
    stats.hold("acks", "no Kafka")
    assert ("holding", "disk full; no Kafka") == (stats.state, stats.reason)

    for number in range(3):
        stats.release(f"p{number}")
        stats.release(f"p{number}")
    assert ("holding", "no Kafka") == (stats.state, stats.reason)
    stats.release("acks")
    assert "running" == stats.state


def test_no_broker(clock):
    """A worker holds while no broker answers."""
    stats = WorkerStats()
    stats.broker_answered()
    stats.contact = BrokerContact("k:9092", clock.monotonic)
    assert ("running", "") == (stats.state, stats.reason)
    clock.now += 5.0
    stats.hold("acks", "no room")
    assert "holding" == stats.state
    assert "no Kafka broker has answered for 5.0 s at k:9092; no room" == stats.reason

    stats.release("acks")
    assert "holding" == stats.state
    stats.broker_answered()
    assert ("running", "") == (stats.state, stats.reason)


def test_stopping():
    """A worker that stops reports it, whatever else it waits for."""
    stats = WorkerStats()
    stats.hold("x", "disk full")
    stats.stopping = True

    assert ("stopping", "disk full") == (stats.state, stats.reason)


def test_counts():
    """Blocks are counted with their bytes, records by partition."""
    stats = WorkerStats()
    stats.persisted(7)
    stats.persisted(0)
    stats.took("t", 1)
    stats.took("t", 1)
    stats.took("t", 2)

    assert (2, 7) == (stats.blocks, stats.bytes)
    assert {("t", 1): 2, ("t", 2): 1} == stats.taken


@pytest.mark.parametrize(
    ("oldest", "retention", "left"),
    [(None, 10.0, None), (95.0, None, None), (95.0, 10.0, 5.0), (50.0, 10.0, -40.0)],
)
def test_retention_left(clock, oldest, retention, left):
    """The seconds until Kafka deletes the oldest unsettled record; negative when they are over."""
    assert clock
    stats = WorkerStats()
    stats.oldest_unread, stats.retention_seconds = oldest, retention

    assert left == stats.retention_left
