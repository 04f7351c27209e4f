"""Makes record batches: as aiokafka builds them, and then damaged as an unknown producer would.

The check sum is always right: an unknown producer can compute it too.
"""

import asyncio
import struct
import zlib

import zstandard

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBase, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c, encode_varint_py
from aiokafka.structs import TopicPartition


HEADER = DefaultRecordBase.HEADER_STRUCT
FIELDS = (
    *("base_offset", "length", "leader_epoch", "magic", "crc", "attributes", "last_offset_delta"),
    *("first_timestamp", "max_timestamp", "producer_id", "producer_epoch", "base_sequence"),
    "count",
)
CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
STAMP = 1_700_000_000_000
LZ4_BLOCK = 4 << 20


def built(records, **fields):
    """Return the batch of *records*, ``[(key, value, headers), ...]``, with its *fields* set."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    for offset, (key, value, headers) in enumerate(records):
        builder.append(offset, STAMP + offset, key, value, headers)
    return sealed(builder.build(), **fields)


def fields_of(batch):
    """Return what *batch* says of itself."""
    return dict(zip(FIELDS, HEADER.unpack_from(batch), strict=True))


def sealed(batch, body=None, **fields):
    """Return *batch*, maybe with another *body* and *fields*, with its length and check sum."""
    body = bytes(batch[HEADER.size :]) if body is None else body
    fields = fields_of(batch) | fields
    fields["length"] = HEADER.size + len(body) - DefaultRecordBase.AFTER_LEN_OFFSET
    start = DefaultRecordBase.ATTRIBUTES_OFFSET
    fields["crc"] = calc_crc32c(HEADER.pack(*fields.values())[start:] + body)
    return HEADER.pack(*fields.values()) + body


def compressed(batch, codec):
    """Return *batch* with its records compressed."""
    return sealed(batch, PACKERS[codec](bytes(batch[HEADER.size :]), 0), attributes=CODECS[codec])


def record_before(value_bytes, *, offset=0):
    """Return a record up to its value, behind which a zero stands for no headers.

    Its key is empty: a compacted topic wants one.
    """
    fields = bytearray()
    for number in (0, 0, offset, 0, value_bytes):  # attributes, time, offset, bytes of the key
        encode_varint_py(number, fields.append)
    length = bytearray()
    encode_varint_py(len(fields) + value_bytes + 1, length.append)
    return bytes(length + fields)


def bomb(codec, size):
    """Return a batch of one record whose value is *size* zeros."""
    body = PACKERS[codec](record_before(size), size + 1)
    return sealed(built([(None, b"", [])]), body, attributes=CODECS[codec])


def _gzip(data, zeros):
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(data) + packer.compress(bytes(zeros)) + packer.flush()


def _zstd(data, zeros):
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.compress(bytes(zeros)) + packer.flush()


def _snappy(data, zeros):
    """One block in the framing of xerial's library: literals, and copies of the zero before."""
    block = bytearray()
    size = len(data) + zeros
    while size >= 0x80:
        block.append(size & 0x7F | 0x80)
        size >>= 7
    block.append(size)
    for piece in _pieces(data + bytes(min(zeros, 1)), 60):
        block += bytes([(len(piece) - 1) << 2]) + piece
    copies, rest = divmod(max(0, zeros - 1), 64)
    block += b"\xfe\x01\x00" * copies
    block += bytes([(rest - 1) << 2 | 2, 1, 0]) if rest else b""
    return b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, len(block)) + block


def _lz4(data, zeros):
    """A frame of independent blocks: *data* as it is, then zeros that copy the zero before."""
    blocks = [(True, piece) for piece in _pieces(data, LZ4_BLOCK)]
    last_literals = 5  # the format wants them
    while zeros > 1000:
        size = min(zeros, LZ4_BLOCK)
        more, rest = divmod(size - 1 - last_literals - 19, 255)
        match = b"\x1f\0\x01\0" + b"\xff" * more + bytes([rest])
        blocks.append((False, match + bytes([last_literals << 4]) + bytes(last_literals)))
        zeros -= size
    blocks += [(True, bytes(zeros))] if zeros else []
    frame = b"\x04\x22\x4d\x18\x60\x70\x73"
    for is_plain, block in blocks:
        frame += struct.pack("<I", len(block) | is_plain << 31) + block
    return frame + bytes(4)


def _pieces(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


PACKERS = {"gzip": _gzip, "zstd": _zstd, "snappy": _snappy, "lz4": _lz4}


def produce(brokers, topic, partition, batches):
    """Write *batches* to Kafka as they are; return the offset of the first record of each."""
    return asyncio.run(_produce(brokers, TopicPartition(topic, partition), batches))


async def _produce(brokers, place, batches):
    client = AIOKafkaClient(bootstrap_servers=brokers)
    await client.bootstrap()
    try:
        await client.set_topics([place.topic])
        leader = client.cluster.leader_for_partition(place)
        return [await _produce_one(client, leader, place, batch) for batch in batches]
    finally:
        await client.close()


async def _produce_one(client, leader, place, batch):
    topics = [(place.topic, [(place.partition, batch)])]
    request = ProduceRequest(transactional_id=None, required_acks=-1, timeout=30_000, topics=topics)
    answer = await client.send(leader, request)
    ((_, ((_, error, offset, *_),)),) = answer.topics
    assert error == 0, f"Kafka refused the batch: error {error}"
    return offset
