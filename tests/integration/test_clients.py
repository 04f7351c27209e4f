"""What our producers promise, as a broker sees it: in the requests that they send."""

import contextlib
import logging
import socket

import pytest

from streamapp.errors import BrokerUnreachableError
from streamapp.kafka import clients, topic_admin
from streamapp.kafka.connection_errors import ConnectionErrors
from streamapp.producer.block_proofs import Prover
from streamapp.producer.kafka_writer import BoundedProducer
from streamapp.producer.model import Block, File, Phase
from streamapp.producer.sender import SendContext, Sender
from streamapp.producer.sources.scan import scan
from streamapp.protocol import fileplan, routing, topics
from streamapp.protocol.compression import Compression
from streamapp.settings import Settings
from streamapp.worker.application import create_app
from tests.fake_broker import ALL_REPLICAS, PRODUCER_ID, FakeBroker
from tests.waiting import wait_for


KEYS = [f"{number:032x}".encode() for number in range(20)]
BLOCK = 1 << 16


@pytest.fixture
def broker():
    """A broker whose topics have six partitions."""
    with FakeBroker(topics.BLOCK_PARTITIONS) as broker:
        yield broker


@pytest.fixture
def settings(broker, tmp_path):
    """Settings that lead to it."""
    return Settings.load(
        machine_id="m", brokers=broker.address, data_dir=(str(tmp_path),), block_size=BLOCK
    )


@pytest.fixture(params=["of the commands", "of the delivery"])
def writer(request, settings):
    """Each Kafka producer of this project outside of Faust."""
    if request.param == "of the delivery":
        return BoundedProducer.for_topic(settings, max_message_bytes=topic_admin.MAX_MESSAGE_BYTES)
    return BoundedProducer(lambda: clients.producer(settings))


def assert_promised(produced):
    """All in-sync replicas must acknowledge, and the broker recognizes repeated records."""
    assert {ALL_REPLICAS} == {batch.acks for batch in produced}
    assert {PRODUCER_ID} == {batch.producer_id for batch in produced}


def test_all_replicas_and_no_repeats(broker, writer):
    """A record counts when all in-sync replicas have it, and is numbered for its partition."""
    reports = []
    for number in range(3):
        writer.post("t", b"v", key=b"k", partition=4, on_delivery=lambda *r: reports.append(r))
        assert writer.flush(30), number

    assert [None] * 3 == [error for error, _ in reports]
    assert_promised(broker.produced)
    assert [(4, 0), (4, 1), (4, 2)] == [(b.partition, b.sequence) for b in broker.produced]


def test_sent_again_as_the_same(broker, writer):
    """What was not answered is sent again under the same number: a broker takes it once."""
    broker.cut = 1
    writer.post("t", b"v", key=b"k", partition=0)

    assert writer.flush(30)
    assert_promised(broker.produced)
    assert [(0, 1), (0, 1)] == [(b.sequence, b.records) for b in broker.produced]


def test_partition_of_a_key(broker, writer):
    """Without a partition a key goes where everyone looks for it: Java's murmur2."""
    broker.partitions = topics.FILE_PARTITIONS
    for key in KEYS:
        writer.post(key.decode(), b"v", key=key)  # a topic for each tells them apart
    assert writer.flush(30)

    wanted = {key.decode(): routing.partition_of(key) for key in KEYS}
    assert wanted == {batch.topic: batch.partition for batch in broker.produced}
    assert topics.FILE_PARTITIONS == len(set(wanted.values()))


def test_partition_of_a_block(broker, settings, tmp_path):
    """All frames of a block go to the partition that its number says, not to that of its key."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"x" * 3 * BLOCK)
    (source,) = scan(tmp_path / "data", machine="m", block_size=BLOCK)
    writer = BoundedProducer.for_topic(settings, max_message_bytes=topic_admin.MAX_MESSAGE_BYTES)
    refused = []
    sender = Sender(
        SendContext(
            folder=tmp_path / "data",
            machine="m",
            block_size=BLOCK,
            frame_bytes=BLOCK // 4,
            compression=Compression.NONE,
            shared=Sent(),
            writer=writer,
            is_stopped=lambda: False,
            on_refused=lambda *r: refused.append(r),
            now_ns=lambda: 0,
            prover=Prover(bytes(32)),
        )
    )
    wanted = []
    for number in range(3):
        wanted.append(fileplan.block_partition(source.file_id, number, broker.partitions))
        block = Block(File(source, 3), number, wanted[-1])
        block.phase, block.attempt, block.tries = Phase.SENDING, 1, 1
        sender.send(block)
        assert writer.flush(30)

    assert [] == refused
    assert_promised(broker.produced)
    assert wanted == list(dict.fromkeys(batch.partition for batch in broker.produced))
    assert 3 * 4 == sum(batch.records for batch in broker.produced)


class Sent:
    """Stands for the shared delivery: ignores what was sent."""

    @contextlib.contextmanager
    def locked(self):
        """Give itself as the delivery."""
        yield self, 0.0

    def sent(self, *_):
        """Ignore it."""


@pytest.fixture
def nowhere():
    """Settings that lead to a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return Settings.load(machine_id="m", brokers=f"127.0.0.1:{port}")


def test_no_line_of_librdkafka(nowhere, caplog, capfd):
    """No client writes a line of librdkafka to the screen or, unless one debugs, to the log."""
    caplog.set_level(logging.DEBUG)
    trouble = ConnectionErrors()
    consumer = clients.consumer(nowhere, error_cb=trouble.note)
    writer = BoundedProducer.for_topic(nowhere, max_message_bytes=1 << 20)
    admin = clients.admin(nowhere)
    writer.post("t", b"v", key=b"k")

    def reason():
        consumer.poll(0.01)
        writer.flush(0.01)
        return trouble.reason

    said = f"{nowhere.brokers} refuses the connection"
    assert said == wait_for(reason, within=20, what="the consumer's reason")
    assert said == wait_for(lambda: admin.trouble, within=20, what="the admin client's reason")
    consumer.close()
    assert ("", "") == capfd.readouterr()
    assert any("Connection refused" in record.getMessage() for record in caplog.records)
    assert [] == [r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG]


def test_reason_in_the_error(nowhere, monkeypatch):
    """A command that reaches no broker says why not, as far as that is known."""
    monkeypatch.setattr(clients, "REQUEST_SECONDS", 1.0)

    with pytest.raises(BrokerUnreachableError) as caught:
        topic_admin.check(nowhere)
    assert (
        f"cannot reach Kafka: no Kafka broker answers at {nowhere.brokers} ({nowhere.brokers} "
        "refuses the connection). Is it running, is --brokers right?"
    ) == str(caught.value)


async def test_worker(broker, settings):
    """A worker's acknowledgements count when all in-sync replicas have them."""
    app = create_app(settings)
    await app.producer.start()
    try:
        for key in KEYS[:3]:
            sent = await app.producer.send(
                topics.ACKS, key, b"v", partition=2, timestamp=None, headers=None
            )
            await sent
    finally:
        await app.producer.stop()

    assert [(ALL_REPLICAS, 2)] * 3 == [(b.acks, b.partition) for b in broker.produced]
