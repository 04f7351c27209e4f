"""Reading what the machines have answered."""

import threading

import pytest

from streamapp.producer.ack_reader import AckReader
from streamapp.protocol import messages, topics
from streamapp.protocol.messages import FileStatus, Heartbeat
from tests.fake_kafka import FakeConsumer, FakeKafka
from tests.unit.deliveries import GROUP, ack, delivery, only_file


@pytest.fixture
def fake():
    """A Kafka whose acknowledgements are written by the test."""
    return FakeKafka(group=GROUP)


@pytest.fixture
def heard():
    """The records that the reader passed on."""
    return []


@pytest.fixture
def reader(fake, heard):
    """A reader of one group's acknowledgements."""
    return AckReader(FakeConsumer(fake), group=GROUP, on_acks=heard.extend, on_status=heard.append)


ACK = ack(only_file(delivery()), 0)
STATUS = FileStatus(
    file_id="0" * 32, state="complete", name="n", size=1, blocks=1, block_size=1, source="m"
)
BEAT = Heartbeat(machine="w1", group=GROUP, state="running", at=7.0)


def test_catches_up(fake, reader, heard):
    """All that was there is read; of the group, and of files; what is no record is passed over."""
    others = ack(only_file(delivery()), 1, group="others")
    for record in (ACK, others):
        fake.append(topics.ACKS, 2, messages.encode(record))
    fake.append(topics.ACKS, 1, b"{nonsense")
    fake.append(topics.ACKS, 1, None)
    fake.append(topics.STATUS, 0, messages.encode(STATUS))
    fake.append(topics.STATUS, 1, messages.encode(BEAT))
    reader.catch_up(threading.Event())

    assert [ACK, STATUS, BEAT] == sorted(heard, key=lambda record: type(record).__name__)


class Until:
    """Says stop as soon as something holds."""

    def __init__(self, holds):
        self.is_set = holds


def test_goes_on(fake, reader, heard):
    """Later acknowledgements and heartbeats are passed on; status records of producers are not."""
    reader.catch_up(threading.Event())
    fake.append(topics.STATUS, 0, messages.encode(STATUS))
    fake.append(topics.ACKS, 0, messages.encode(ACK))
    fake.append(topics.STATUS, 2, messages.encode(BEAT))
    fake.append(topics.STATUS, 2, b"{nonsense")
    reader.follow(Until(lambda: len(heard) == 2))

    assert {ACK, BEAT} == set(heard)


def test_stopped(fake, reader, heard):
    """Catching up ends when the user wants it."""
    fake.append(topics.ACKS, 0, messages.encode(ACK))
    stop = threading.Event()
    stop.set()
    reader.catch_up(stop)

    assert not heard
