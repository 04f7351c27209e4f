"""Noticing that no broker answers."""

import json

import pytest

from streamapp.kafka.broker_contact import BrokerContact


@pytest.fixture
def now():
    """The clock, which stands still until it is moved."""
    return [100.0]


@pytest.fixture
def contact(now):
    """A contact that is silent after four seconds."""
    return BrokerContact("k:9092", lambda: now[0], silent_seconds=4.0)


def statistics(*brokers):
    """Librdkafka's statistics with *brokers*: their states and microseconds since an answer."""
    named = {f"b:{n}": {"state": s, "rxidle": i, "tx": 1} for n, (s, i) in enumerate(brokers)}
    return json.dumps({"name": "x", "brokers": named, "topics": {}})


def test_silence(now, contact):
    """Silence begins with the last answer, and is none until it has lasted."""
    now[0] = 103.9
    assert "" == contact.reason
    now[0] = 106.0
    assert "no Kafka broker has answered for 6.0 s at k:9092" == contact.reason
    contact.note_answer()
    assert "" == contact.reason


@pytest.mark.parametrize(
    ("brokers", "silent"),
    [
        ([("UP", 500_000), ("DOWN", 9_000_000)], 0.0),
        ([("UP", 5_000_000), ("UP", 7_000_000)], 5.0),  # frozen: connected, and silent
        ([("DOWN", 500_000), ("TRY_CONNECT", -1)], 10.0),
        ([("UP", -1)], 10.0),
        ([], 10.0),
    ],
)
def test_statistics(now, contact, brokers, silent):
    """A connection that is up and receives is an answer; any other one is none."""
    now[0] = 110.0
    contact.note_statistics(statistics(*brokers))

    assert (f"for {silent} s" in contact.reason) if silent else not contact.reason


def test_statistics_do_not_take_back(now, contact):
    """A connection made anew does not make the last answer older than it is."""
    now[0] = 110.0
    contact.note_statistics(statistics(("UP", 0)))
    contact.note_statistics(statistics(("UP", 9_000_000)))
    now[0] = 115.0

    assert "for 5.0 s" in contact.reason
