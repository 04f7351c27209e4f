"""Records are published, and reported as published only when Kafka has all of them."""

import pytest

from streamapp.errors import ClusterError
from streamapp.kafka import clients, publish
from streamapp.protocol import messages, routing, topics
from streamapp.settings import Settings
from tests.frames import FILE_ID


class Producer:
    """A client that refuses some records, is full at first, and may leave some unsent."""

    def __init__(self, *, refuses=(), is_full=False, unsent=0):
        self.refuses, self.is_full, self.unsent = refuses, is_full, unsent
        self.taken = []

    def produce(self, topic, *, value, key, partition, on_delivery):
        """As confluent's `Producer.produce`."""
        if self.is_full:
            raise BufferError
        self.taken.append((topic, key, value, partition))
        on_delivery("refused" if key in self.refuses else None, None)

    def poll(self, _seconds):
        """Make room."""
        self.is_full = False

    def flush(self, _seconds):
        """Return how many records were not sent."""
        return self.unsent


RECORDS = [("topic", b"a", b"1", 0), ("topic", b"b", None, 2)]


@pytest.fixture
def publish_with(monkeypatch):
    """Publishes `RECORDS` with a client."""

    def run(producer):
        monkeypatch.setattr(clients, "producer", lambda _settings: producer)
        return publish.publish(Settings(), RECORDS)

    return run


@pytest.mark.parametrize("is_full", [False, True])
def test_all_are_published(publish_with, is_full):
    """Every record is taken, also by a client whose buffer is full at first."""
    producer = Producer(is_full=is_full)

    assert len(RECORDS) == publish_with(producer)
    assert RECORDS == producer.taken


@pytest.mark.parametrize("producer", [Producer(refuses={b"b"}), Producer(unsent=1)])
def test_refused(publish_with, producer):
    """A record that Kafka refused, or did not get, is an error."""
    with pytest.raises(ClusterError, match="Kafka did not take 1 record: run it again"):
        publish_with(producer)


def test_acks(monkeypatch):
    """An acknowledgement goes to its file's partition of the acknowledgements' topic."""
    producer = Producer()
    monkeypatch.setattr(clients, "producer", lambda _settings: producer)
    ack = messages.BlockAck(
        file_id=FILE_ID,
        block=0,
        blocks=1,
        group="g",
        machine="m",
        outcome="lost",
        attempt=0,
        size=1,
    )

    assert 1 == publish.publish_acks(Settings(), [ack])
    partition = routing.partition_of(FILE_ID.encode())
    assert [(topics.ACKS, ack.key, messages.encode(ack), partition)] == producer.taken
