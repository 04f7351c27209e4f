"""How the clients outside of Faust are configured; `tests/integration` shows what brokers see."""

import pytest

from streamapp.kafka import clients
from streamapp.producer.kafka_writer import BoundedProducer
from streamapp.settings import Settings


@pytest.fixture
def made(monkeypatch):
    """The configuration of each producer that is made."""
    made = []
    monkeypatch.setattr(clients, "Producer", made.append)
    return made


@pytest.fixture
def settings():
    """Settings with a send buffer of 4 MiB."""
    return Settings(machine_id="m", brokers="k:1", send_buffer="4MiB")


def test_producer(made, settings):
    """A producer waits for all in-sync replicas, is idempotent, and routes keys as Java does."""
    clients.producer(settings)

    wanted = {
        "bootstrap.servers": "k:1",
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "max.in.flight.requests.per.connection": 5,
        "queue.buffering.max.kbytes": 4096,
        "compression.type": "none",
    }
    assert wanted == {name: made[0][name] for name in wanted}


def test_producer_of_a_delivery(made, settings):
    """A delivery's producer leaves no gap, and repeats a record without end."""
    BoundedProducer.for_topic(settings, max_message_bytes=1 << 20)

    (config,) = made
    assert config["enable.gapless.guarantee"] is True
    assert config["delivery.timeout.ms"] == 0
    assert ("all", True) == (config["acks"], config["enable.idempotence"])


@pytest.mark.parametrize("max_message_bytes", [1 << 20, 8 << 20])
def test_batches_fit_the_topic(made, settings, max_message_bytes):
    """No produce batch is larger than the topic takes."""
    clients.producer(settings, max_message_bytes=max_message_bytes)

    assert made[0]["message.max.bytes"] == max_message_bytes
    assert made[0]["batch.size"] < max_message_bytes


def test_consumer(monkeypatch, settings):
    """A consumer commits nothing, and begins at the beginning."""
    made = []
    monkeypatch.setattr(clients, "Consumer", made.append)
    clients.consumer(settings)

    assert made[0]["enable.auto.commit"] is False
    assert made[0]["enable.auto.offset.store"] is False
    assert made[0]["auto.offset.reset"] == "earliest"
