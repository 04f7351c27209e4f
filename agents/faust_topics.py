"""The topics as Faust's agents read and write them; keys and values are bytes.

`data_blocks` is keyed by file id and block: a file uses every partition, and the frames of one
block are in order on one partition. A record of `acks` or `status` is on the partition of its file
id or machine id, because the row of the table that it fills is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamapp.app import app
from streamapp.kafka import topic_admin
from streamapp.protocol import messages, topics
from streamapp.protocol.routing import partition_of, routing_key_of


if TYPE_CHECKING:
    from faust.types import TopicT


def _raw(name: str, partitions: int) -> TopicT:
    return app.topic(
        name,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        partitions=partitions,
        internal=False,
    )


_names = topic_admin.names(app.settings)
data_blocks = _raw(_names.data_blocks, topics.BLOCK_PARTITIONS)
acks = _raw(_names.acks, topics.FILE_PARTITIONS)
status = _raw(_names.status, topics.FILE_PARTITIONS)


async def publish(record: messages.BlockAck | messages.Heartbeat | messages.Quarantined) -> None:
    """Publish *record*; return when all in-sync replicas have it.

    Raises:
        Exception: any error of Faust or aiokafka; the record is not published.
    """
    topic = acks if isinstance(record, messages.BlockAck) else status
    queued = await topic.send(
        key=record.key,
        value=messages.encode(record),
        partition=partition_of(routing_key_of(record).encode()),
    )
    await queued  # `send` only queues the record
