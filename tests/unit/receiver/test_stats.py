"""A worker's vitals: what it did, what it waits for, how fast it is."""

import types

import pytest

from streamapp.kafka.broker_contact import BrokerContact
from streamapp.receiver import stats as vitals_module
from streamapp.receiver.stats import RATE_SECONDS, Vitals


@pytest.fixture
def clock(monkeypatch):
    """The clock, which stands still until it is moved."""
    clock = types.SimpleNamespace(now=100.0)
    clock.monotonic = clock.time = lambda: clock.now
    monkeypatch.setattr(vitals_module, "time", clock)
    return clock


def test_rate(clock):
    """The rate is that of the last seconds, and falls to nothing when nothing comes."""
    vitals = Vitals()
    for _ in range(100):
        vitals.received(1000)
        clock.now += 0.5
    assert 2000 == pytest.approx(vitals.rate, rel=0.06)

    clock.now += RATE_SECONDS + 1
    assert 0 == vitals.rate
    assert 0 == len(vitals._recent)


def test_same_kind():
    """Six partitions that wait for one disk say so once, though each needs another number."""
    vitals = Vitals()
    for number in range(6):
        vitals.hold(f"p{number}", f"disk full: 8 MiB free in /d, needs {number + 1} KiB")
    vitals.hold("p6", "cannot write /d/x: I/O error")
    expected = "disk full: 8 MiB free in /d, needs 1 KiB; cannot write /d/x: I/O error"
    assert expected == vitals.reason

    vitals.release("p0")
    assert vitals.reason.startswith("disk full: 8 MiB free in /d, needs 2 KiB; ")


def test_holds():
    """It holds as long as anything holds; a reason that several have is said once."""
    vitals = Vitals()
    assert ("running", "") == (vitals.state, vitals.reason)
    for number in range(3):
        vitals.hold(f"p{number}", "disk full")
    vitals.hold("acks", "no Kafka")
    assert ("holding", "disk full; no Kafka") == (vitals.state, vitals.reason)

    for number in range(3):
        vitals.release(f"p{number}")
        vitals.release(f"p{number}")
    assert ("holding", "no Kafka") == (vitals.state, vitals.reason)
    vitals.release("acks")
    assert "running" == vitals.state


def test_no_broker(clock):
    """A worker that no broker answers holds, though nothing else does, until one answers."""
    vitals = Vitals()
    vitals.broker_answered()
    vitals.contact = BrokerContact("k:9092", clock.monotonic)
    assert ("running", "") == (vitals.state, vitals.reason)
    clock.now += 5.0
    vitals.hold("acks", "no room")
    assert "holding" == vitals.state
    assert "no Kafka broker has answered for 5.0 s at k:9092; no room" == vitals.reason

    vitals.release("acks")
    assert "holding" == vitals.state
    vitals.broker_answered()
    assert ("running", "") == (vitals.state, vitals.reason)


def test_stopping():
    """A worker that stops says so, whatever else it waits for."""
    vitals = Vitals()
    vitals.hold("x", "disk full")
    vitals.stopping = True

    assert ("stopping", "disk full") == (vitals.state, vitals.reason)


def test_counts():
    """A block counts with its bytes; records count by their partition."""
    vitals = Vitals()
    vitals.persisted(7)
    vitals.persisted(0)
    vitals.took("t", 1)
    vitals.took("t", 1)
    vitals.took("t", 2)

    assert (2, 7) == (vitals.blocks, vitals.bytes)
    assert {("t", 1): 2, ("t", 2): 1} == vitals.taken


@pytest.mark.parametrize(
    ("oldest", "retention", "left"),
    [(None, 10.0, None), (95.0, None, None), (95.0, 10.0, 5.0), (50.0, 10.0, -40.0)],
)
def test_retention_left(clock, oldest, retention, left):
    """What is left until Kafka deletes what was not read; below 0 when that is over."""
    assert clock
    vitals = Vitals()
    vitals.oldest_unread, vitals.retention_seconds = oldest, retention

    assert left == vitals.retention_left
