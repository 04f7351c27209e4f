"""Acknowledges again what this machine has on disk: the way back when the topic is gone.

The blocks on disk and their metadata are the truth. Every one of them gets its ``persisted``
record again; the workers fold them as any other, so doing this twice changes nothing.
"""

from __future__ import annotations

import time

from typing import TYPE_CHECKING

import msgspec

from streamapp.errors import ClusterError, SourceError
from streamapp.kafka import clients, topic_admin
from streamapp.protocol import messages
from streamapp.protocol.routing import partition_of
from streamapp.restore import assemble
from streamapp.store import metadata
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from confluent_kafka import KafkaError as Code
    from confluent_kafka import Message

    from streamapp.settings import Settings


class Outcome(msgspec.Struct):
    """How many blocks were acknowledged again."""

    blocks: int = 0
    refused: int = 0


def from_disks(settings: Settings) -> Outcome:
    """Write a ``persisted`` record for every block in this machine's data folders.

    Raises:
        SourceError: there is no data folder.
        ClusterError: the broker does not answer, or did not take them all.
    """
    roots = [root for root in settings.data_roots if root.is_dir()]
    if not roots:
        message = f"no data folder {settings.data_roots[0]}: give --machine-id and --data-dir"
        raise SourceError(message)
    topic_admin.ensure(settings)
    return write(settings, _acks(settings, roots))


def write(settings: Settings, acks: Iterable[messages.BlockAck]) -> Outcome:
    """Write *acks* to their topic; return when Kafka has all of them.

    Raises:
        ClusterError: the broker does not answer, or did not take them all.
    """
    acks_topic = topic_admin.names(settings).acks
    return produce(
        settings,
        (
            (acks_topic, ack.key, messages.encode(ack), partition_of(ack.file_id.encode()))
            for ack in acks
        ),
    )


def produce(
    settings: Settings, messages: Iterable[tuple[str, bytes, bytes | None, int]]
) -> Outcome:
    """Write *messages* (topic, key, value, partition); return when Kafka has all of them.

    Raises:
        ClusterError: the broker does not answer, or did not take them all.
    """
    outcome = Outcome()

    def on_delivery(error: Code | None, _message: Message) -> None:
        if error is None:
            outcome.blocks += 1
        else:
            outcome.refused += 1

    producer = clients.producer(settings)
    for topic, key, value, partition in messages:
        while True:
            try:
                producer.produce(
                    topic, value=value, key=key, partition=partition, on_delivery=on_delivery
                )
                break
            except BufferError:
                producer.poll(clients.REQUEST_SECONDS)
    left = producer.flush(6 * clients.REQUEST_SECONDS)
    if left or outcome.refused:
        message = f"Kafka did not take {counted(left + outcome.refused, 'record')}: run it again"
        raise ClusterError(message)
    return outcome


def _acks(settings: Settings, roots: list[Path]) -> Iterator[messages.BlockAck]:
    for joined in assemble.collect(roots).values():
        for block, places in joined.blocks.items():
            name = metadata.metadata_name(block, joined.file.blocks)
            path = places[0].with_name(name)
            if path.exists():
                stored = metadata.decode_block(path.read_bytes())
                yield stored.acknowledgement(
                    group=settings.group_id, machine=settings.machine_id, at=time.time()
                )
