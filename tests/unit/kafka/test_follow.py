"""Reading topics by assignment, past what cannot be read and what lies about itself."""

import threading

import pytest

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException

from streamapp.errors import BrokerDeniedError
from streamapp.kafka.follow import Follower
from streamapp.protocol import topics
from tests.fake_kafka import FakeConsumer, FakeKafka, Message
from tests.unit.deliveries import GROUP


@pytest.fixture
def fake():
    """A Kafka whose records are written by the test."""
    return FakeKafka(group=GROUP)


@pytest.fixture
def consumer(fake):
    """A consumer of it."""
    return FakeConsumer(fake)


@pytest.fixture
def heard():
    """The records that the follower passes on."""
    return []


@pytest.fixture
def reader(consumer, heard):
    """A follower of the acknowledgements."""
    places = [(topics.ACKS, number) for number in range(topics.FILE_PARTITIONS)]
    return Follower(consumer, places, heard.extend)


def is_at(reader, partition, offset):
    """Whether *offset* is the next one that *reader* expects of *partition*."""
    place = (topics.ACKS, partition)
    return reader.wait_until({place: offset}, 0.0) and not reader.wait_until(
        {place: offset + 1}, 0.0
    )


def test_stopped(fake, reader, heard):
    """Reading up to the end stops when the user wants it."""
    fake.append(topics.ACKS, 0, b"x")
    stop = threading.Event()
    stop.set()
    reader.read_to(reader.begin(stop), stop)

    assert not heard
    assert is_at(reader, 0, 0)


def test_reads_to_the_end(fake, reader, heard):
    """Every record is passed on once."""
    written = [fake.append(topics.ACKS, partition, b"x") for partition in (0, 0, 1)]
    stop = threading.Event()
    reader.read_to(reader.begin(stop), stop)

    assert written == heard
    assert is_at(reader, 0, 2)
    assert is_at(reader, 1, 1)


def test_gap_at_the_end(consumer, reader):
    """The end of a partition is reached where Kafka says so, also when records are gone there."""
    end = Message(topics.ACKS, 0, 7, error=Code(Code._PARTITION_EOF))
    consumer.poll = lambda _: end
    reader.read_some()

    assert reader.wait_until({(topics.ACKS, 0): 7}, within=0.0)
    assert not reader.wait_until({(topics.ACKS, 0): 8}, within=0.01)


def meet(consumer, reader, message):
    """Have *reader* read *message*, and nothing behind it; return where it went on by itself."""
    sought = []
    consumer.seek = lambda place: sought.append((place.partition, place.offset))
    consumer.poll = lambda _: message
    consumer.consume = lambda *_, **__: []
    reader.read_some()
    return sought


@pytest.mark.parametrize("code", [Code._BAD_COMPRESSION, Code._BAD_MSG, Code._NOT_IMPLEMENTED])
def test_bomb(consumer, reader, code):
    """A batch that librdkafka cannot decode, and would fetch again without end, is skipped."""
    unreadable = Message(topics.ACKS, 1, 0, error=Code(code))

    assert [(1, 1)] == meet(consumer, reader, unreadable)
    assert [(1, 2)] == meet(consumer, reader, unreadable)
    assert is_at(reader, 1, 2)


@pytest.mark.parametrize(("offset", "sought"), [(8, None), (9, 1), (1 << 30, 1)])
def test_forged_offset(consumer, reader, offset, sought):
    """A record says its own offset: behind the end of its partition none can be, within it any."""
    consumer.get_watermark_offsets = lambda _, cached: (0, 9) if cached else None
    found = meet(consumer, reader, Message(topics.ACKS, 0, offset, value=b"x"))

    assert ([(0, sought)] if sought else []) == found
    assert is_at(reader, 0, sought or offset + 1)


def test_not_read_any_more(consumer, reader):
    """A partition that was let go of meanwhile is no error."""

    def refuse(_):
        raise KafkaException(Code(Code._STATE))

    bomb = Message(topics.ACKS, 1, 0, error=Code(Code._BAD_COMPRESSION))
    meet(consumer, reader, bomb)
    consumer.seek = refuse
    reader.read_some()

    assert is_at(reader, 1, 2)


@pytest.mark.parametrize("error", [Code._TRANSPORT, Code.GROUP_AUTHORIZATION_FAILED])
def test_errors_that_pass(consumer, reader, error):
    """A broker that is away comes back; and no right on a group is needed to read."""
    consumer.poll = lambda _: Message(topics.ACKS, 0, None, error=Code(error))

    reader.read_some()


def test_no_right(consumer, reader):
    """Without the right to read nothing can be known, and it says so."""
    denied = Code(Code.TOPIC_AUTHORIZATION_FAILED)
    consumer.poll = lambda _: Message(topics.ACKS, 0, None, error=denied)

    with pytest.raises(BrokerDeniedError):
        reader.read_some()
