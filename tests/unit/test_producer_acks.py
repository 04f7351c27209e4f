"""Reading what the machines have answered."""

import threading

import pytest

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException

from streamapp import records, topics
from streamapp.errors import BrokerDeniedError
from streamapp.producer.acks import AckReader
from streamapp.records import FileStatus, Heartbeat
from tests.unit.deliveries import GROUP, ack, delivery, only_file
from tests.unit.fake_kafka import FakeConsumer, FakeKafka, Message


@pytest.fixture
def fake():
    """A Kafka whose acknowledgements are written by the test."""
    return FakeKafka(group=GROUP)


@pytest.fixture
def heard():
    """What the reader says."""
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
        fake.append(topics.ACKS, 2, records.encode(record))
    fake.append(topics.ACKS, 1, b"{nonsense")
    fake.append(topics.ACKS, 1, None)
    fake.append(topics.STATUS, 0, records.encode(STATUS))
    fake.append(topics.STATUS, 1, records.encode(BEAT))
    reader.catch_up(threading.Event())

    assert [ACK, STATUS, BEAT] == sorted(heard, key=lambda record: type(record).__name__)


def test_goes_on(fake, reader, heard):
    """Later acknowledgements and heartbeats are handed on; what producers report is not."""
    reader.catch_up(threading.Event())
    fake.append(topics.STATUS, 0, records.encode(STATUS))
    fake.append(topics.ACKS, 0, records.encode(ACK))
    fake.append(topics.STATUS, 2, records.encode(BEAT))
    fake.append(topics.STATUS, 2, b"{nonsense")
    reader._read()
    reader._read()

    assert {ACK, BEAT} == set(heard)


def test_gap_at_the_end(reader):
    """The end of a partition is reached where Kafka says so, also when records are gone there."""
    end = Message(topics.ACKS, 0, 7, error=Code(Code._PARTITION_EOF))
    reader._consumer.poll = lambda _: end
    reader._read()

    assert reader.wait_until({(topics.ACKS, 0): 7}, within=0.0)
    assert not reader.wait_until({(topics.ACKS, 0): 8}, within=0.01)


def meet(reader, message):
    """Have *reader* read *message*, and nothing behind it; return where it went on by itself."""
    sought = []
    reader._consumer.seek = lambda place: sought.append((place.partition, place.offset))
    reader._consumer.poll = lambda _: message
    reader._consumer.consume = lambda *_, **__: []
    reader._read()
    return sought


@pytest.mark.parametrize("code", [Code._BAD_COMPRESSION, Code._BAD_MSG, Code._NOT_IMPLEMENTED])
def test_bomb(reader, code):
    """What librdkafka cannot read, and would ask for for ever, is passed by."""
    unreadable = Message(topics.ACKS, 1, 0, error=Code(code))

    assert [(1, 1)] == meet(reader, unreadable)
    assert [(1, 2)] == meet(reader, unreadable)
    assert 2 == reader._positions[topics.ACKS, 1]


@pytest.mark.parametrize(("offset", "sought"), [(8, None), (9, 1), (1 << 30, 1)])
def test_forged_offset(reader, offset, sought):
    """A record says its own offset: behind the end of its partition none can be, within it any."""
    reader._consumer.get_watermark_offsets = lambda _, cached: (0, 9) if cached else None
    found = meet(reader, Message(topics.ACKS, 0, offset, value=b"x"))

    assert ([(0, sought)] if sought else []) == found
    assert (sought or offset + 1) == reader._positions[topics.ACKS, 0]


def test_not_read_any_more(reader):
    """A partition that was let go of meanwhile is no error."""

    def refuse(_):
        raise KafkaException(Code(Code._STATE))

    bomb = Message(topics.ACKS, 1, 0, error=Code(Code._BAD_COMPRESSION))
    meet(reader, bomb)
    reader._consumer.seek = refuse
    reader._read()

    assert 2 == reader._positions[topics.ACKS, 1]


def test_stopped(fake, reader):
    """Catching up ends when the user wants it."""
    fake.append(topics.ACKS, 0, b"x")
    stop = threading.Event()
    stop.set()
    reader.catch_up(stop)

    assert 0 == reader._positions[topics.ACKS, 0]


@pytest.mark.parametrize("error", [Code._TRANSPORT, Code.GROUP_AUTHORIZATION_FAILED])
def test_errors_that_pass(reader, error):
    """A broker that is away comes back; and no right on a group is needed to read."""
    reader._consumer.poll = lambda _: Message(topics.ACKS, 0, None, error=Code(error))

    reader._read()


def test_no_right(reader):
    """Without the right to read the run cannot know what is delivered."""
    denied = Code(Code.TOPIC_AUTHORIZATION_FAILED)
    reader._consumer.poll = lambda _: Message(topics.ACKS, 0, None, error=denied)

    with pytest.raises(BrokerDeniedError):
        reader._read()
