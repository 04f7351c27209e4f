"""Computes which partition of `ACKS`, `STATUS` and every table a key belongs to.

The acknowledgements, the status and the table row of a file are in one partition: the one
that Faust chooses for the file id, whatever the record's own key is.
"""

from __future__ import annotations

from typing import Final

from streamapp.protocol.messages import BlockAck, FileStatus, Heartbeat, Quarantined
from streamapp.protocol.topics import FILE_PARTITIONS


_SEED: Final = 0x9747B28C
_MULTIPLIER: Final = 0x5BD1E995
_UINT32: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF


def partition_of(routing_key: bytes) -> int:
    """Return the partition that *routing_key*, a file id or a machine id, belongs to."""
    return (_murmur2(routing_key) & _POSITIVE) % FILE_PARTITIONS


def routing_key_of(record: BlockAck | FileStatus | Heartbeat | Quarantined) -> str:
    """Return the file id of a record about a file, else the machine id."""
    return record.file_id if isinstance(record, BlockAck | FileStatus) else record.machine


def _murmur2(data: bytes) -> int:
    """Return the 32-bit murmur2 of *data*, as Kafka's default partitioner computes it."""
    digest = _SEED ^ len(data)
    whole = len(data) - len(data) % 4
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER & _UINT32
        word = (word ^ word >> 24) * _MULTIPLIER & _UINT32
        digest = digest * _MULTIPLIER & _UINT32 ^ word
    if whole < len(data):
        digest = (digest ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _UINT32
    digest = (digest ^ digest >> 13) * _MULTIPLIER & _UINT32
    return digest ^ digest >> 15
