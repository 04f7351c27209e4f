"""Which partition of the small topics, and of every table, a key belongs to.

The rows of a file are where its acknowledgements and status are: both are written to the
partition that Faust's tables give the file id, whatever the record's own key is.
"""

from __future__ import annotations

from aiokafka.partitioner import murmur2

from streamapp.kafka import topic_admin
from streamapp.protocol.messages import BlockAck, FileStatus, Heartbeat, Quarantined


def partition_of(routing_key: bytes) -> int:
    """Return the partition that *routing_key*, a file id or a machine id, belongs to.

    Java's murmur2, as Faust's tables and the producer's client route.
    """
    return int(murmur2(routing_key) & 0x7FFFFFFF) % topic_admin.FILE_PARTITIONS


def routing_key_of(record: BlockAck | FileStatus | Heartbeat | Quarantined) -> str:
    """Return whose rows *record* belongs to: a file's, or else a machine's."""
    return record.file_id if isinstance(record, BlockAck | FileStatus) else record.machine
