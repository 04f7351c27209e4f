"""Publishes records on the small topics, and waits until Kafka has all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamapp.errors import ClusterError
from streamapp.kafka import clients, topic_admin
from streamapp.protocol import messages
from streamapp.protocol.routing import partition_of
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import KafkaError as Code
    from confluent_kafka import Message

    from streamapp.settings import Settings

Record = tuple[str, bytes, bytes | None, int]
"""Topic, key, value (None deletes the key) and partition."""


def publish_acks(settings: Settings, acks: Iterable[messages.BlockAck]) -> int:
    """Publish *acks*; return how many there were, when Kafka has all of them.

    Raises:
        ClusterError: the broker does not answer, or did not take them all.
    """
    topic = topic_admin.names(settings).acks
    return publish(
        settings,
        (
            (topic, ack.key, messages.encode(ack), partition_of(ack.file_id.encode()))
            for ack in acks
        ),
    )


def publish(settings: Settings, records: Iterable[Record]) -> int:
    """Publish *records*; return how many there were, when Kafka has all of them.

    Raises:
        ClusterError: the broker does not answer, or did not take them all.
    """
    delivered = refused = 0

    def on_delivery(error: Code | None, _message: Message) -> None:
        nonlocal delivered, refused
        if error is None:
            delivered += 1
        else:
            refused += 1

    producer = clients.producer(settings)
    for topic, key, value, partition in records:
        while True:
            try:
                producer.produce(
                    topic, value=value, key=key, partition=partition, on_delivery=on_delivery
                )
                break
            except BufferError:
                producer.poll(clients.REQUEST_SECONDS)
    unsent = producer.flush(6 * clients.REQUEST_SECONDS)
    if unsent or refused:
        message = f"Kafka did not take {counted(unsent + refused, 'record')}: run it again"
        raise ClusterError(message)
    return delivered
