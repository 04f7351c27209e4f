"""The embedded Apache Kafka, the real one: it keeps data, and survives what happens to it."""

import subprocess
import sys

import pytest

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streamapp.broker import Cluster
from streamapp.errors import BrokerError
from tests.waiting import wait_for


QUIET = {"log_level": 0}  # librdkafka complains on stderr about brokers that are down
START = "import sys, pathlib, streamapp.broker as b; b.Cluster(pathlib.Path(sys.argv[1])).start()"


@pytest.fixture
def cluster(tmp_path):
    """One broker, not started yet; its folder's name is one that users have."""
    broker = Cluster(tmp_path / "Zoë's data, 1")
    yield broker
    broker.stop()


def create_topic(bootstrap, name, **config):
    """Create a topic of one partition on every broker there is."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    admin.create_topics([NewTopic(name, 1, config=config)])[name].result(30)


def write(bootstrap, topic, value):
    """Write one record, and wait until all in-sync replicas have it."""
    errors = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", **QUIET})
    producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert 0 == producer.flush(60)
    assert [None] == errors


def read(bootstrap, topic, count):
    """Return the values of the first *count* records of partition 0."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "reader", **QUIET}
    consumer = Consumer({**settings, "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(count, timeout=30)]
    finally:
        consumer.close()


def in_sync(cluster, topic):
    """Return the numbers of the brokers that have all of partition 0, as one of them sees it.

    None of them, while the broker that is asked has just woken and does not know the topic.
    """
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, **QUIET})
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    return sorted(partitions[0].isrs) if partitions else []


def test_keeps_data(cluster):
    """A broker outlives the command that started it, and its data survive stop and start."""
    folder = cluster.folder
    subprocess.run([sys.executable, "-c", START, folder], check=True, timeout=120)
    bootstrap, first = cluster.bootstrap, cluster.status()[0]
    create_topic(bootstrap, "kept")
    write(bootstrap, "kept", b"before")

    cluster.start()
    assert first == cluster.status()[0]

    cluster.stop()
    cluster.stop()
    assert [None] == [node.pid for node in cluster.status()]

    cluster.start()
    assert bootstrap == cluster.bootstrap
    assert [b"before"] == read(bootstrap, "kept", 1)


def test_crash(cluster):
    """After a crash a stale process id is left; it is recognised, and the data are there."""
    cluster.start()
    create_topic(cluster.bootstrap, "kept")
    write(cluster.bootstrap, "kept", b"before")

    cluster.kill(1)
    assert [False] == [node.running for node in cluster.status()]

    cluster.start()
    assert [b"before"] == read(cluster.bootstrap, "kept", 1)


def test_port_of_a_broker(kafka, tmp_path):
    """A second broker on the same port fails and says why; the first one runs on."""
    port = int(kafka.rpartition(":")[2])

    with pytest.raises(BrokerError, match=f"port {port} .* in use"):
        Cluster(tmp_path, port=port).start()

    create_topic(kafka, "after-the-clash")


def test_lost_state(cluster):
    """A broker whose state file is lost keeps its data folder to itself."""
    cluster.start()
    state = cluster.folder / "node-1" / "node.json"
    kept = state.read_bytes()
    state.unlink()

    with pytest.raises(BrokerError, match="not known here"):
        cluster.start()

    state.write_bytes(kept)
    assert [True] == [node.running for node in cluster.status()]


def test_bad_property(tmp_path):
    """A property that Kafka refuses is reported with Kafka's own reason."""
    broker = Cluster(tmp_path, extra={"log.retention.ms": "soon"})

    with pytest.raises(BrokerError, match=r"log\.retention\.ms"):
        broker.start()

    assert [False] == [node.running for node in broker.status()]


def test_one_of_three(kafka3):
    """Three brokers take writes while one is dead, and it catches up when it is back."""
    create_topic(kafka3.bootstrap, "three")
    write(kafka3.bootstrap, "three", b"with three")

    kafka3.kill(2)
    write(kafka3.bootstrap, "three", b"with two")
    kafka3.start_node(2)

    wait_for(lambda: in_sync(kafka3, "three") == [1, 2, 3], within=60, what="node 2 to catch up")
    assert [b"with three", b"with two"] == read(kafka3.bootstrap, "three", 2)


def test_pause_one_of_three(kafka3):
    """A paused broker is running, and does not answer; resumed, it takes part again."""
    create_topic(kafka3.bootstrap, "paused")

    kafka3.pause(3)
    try:
        assert [True] * 3 == [node.running for node in kafka3.status()]
        write(kafka3.bootstrap, "paused", b"with two")
    finally:
        kafka3.resume(3)

    wait_for(lambda: in_sync(kafka3, "paused") == [1, 2, 3], within=60, what="node 3 to catch up")


def test_stop_one_of_three(kafka3):
    """One broker stops while the others run, and starts again on its port."""
    before = kafka3.bootstrap

    kafka3.stop_node(1)
    assert [False, True, True] == [node.running for node in kafka3.status()]
    kafka3.start_node(1)

    assert [True] * 3 == [node.running for node in kafka3.status()]
    assert before == kafka3.bootstrap
