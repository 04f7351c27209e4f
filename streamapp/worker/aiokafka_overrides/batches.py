"""Decodes Kafka's record batches, and survives malformed ones.

For aiokafka 0.14.0. Any producer with write access may write a batch on which aiokafka's own
reader raises: a header whose name is not UTF-8, a codec that is not installed. The partition then
stops for every worker, for ever. Or the batch takes all memory: 9 KB may become 300 MB.

Here a batch with a valid CRC never raises, and takes at most `MAX_PLAIN_BYTES` besides its
records. Their offsets increase and stay within the batch: a forged offset would let a commit pass
records that nobody read. A record that cannot be decoded is *refused*: it becomes a record
without bytes, with the reason as its only header (`streamapp.protocol.frames` reports it), so
that the partition continues. ADR 7 has the alternatives.

`MemoryRecords` and its batches have the names and arguments that aiokafka's fetcher uses.

Delete when aiokafka survives such batches (`test_fault_of_aiokafka` fails then) and limits what a
batch may decompress to.
"""

from __future__ import annotations

import logging
import struct
import zlib

from typing import TYPE_CHECKING, Final

import msgspec
import zstandard

from aiokafka.errors import CorruptRecordException

# In C it reads beyond the end of what it is given.
from aiokafka.record.util import decode_varint_py as decode_varint
from crc32c import crc32c

from streamapp.protocol.frames import MAX_HEADERS, REFUSED_HEADER
from streamapp.units import MIB


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


logger = logging.getLogger(__name__)

MAX_PLAIN_BYTES: Final = 64 * MIB
"""Maximum size of a decompressed batch: eight times what our topics accept."""

MAX_WINDOW_BYTES: Final = 8 * MIB
"""Maximum window of zstd; RFC 8878 asks encoders not to exceed it."""

KEPT_HEADERS: Final = MAX_HEADERS + 1
"""Maximum headers that are decoded: one more than a frame may have, so that it is malformed."""

_LENGTH: Final = struct.Struct(">8xi")  # the offset and it are not counted in it
_MAGIC_OFFSET: Final = 16
_OLD_HEADER: Final = struct.Struct(">q4xI")  # offset, CRC-32 of what stands from the magic on
_HEADER: Final = struct.Struct(
    ">q8xx"  # base offset; length, leader epoch and magic stand behind it
    "I"  # CRC-32C of what stands from the attributes on
    "h"  # attributes
    "i"  # last offset, less the base offset
    "qq"  # first and highest timestamp
    "q6x"  # producer id; its epoch and sequence stand behind it
    "i"  # number of records
)
_ATTRIBUTES_OFFSET: Final = 21
_CODEC_MASK: Final = 0x07
_APPEND_TIME_MASK: Final = 0x08
_TRANSACTIONAL_MASK: Final = 0x10
_CONTROL_MASK: Final = 0x20

_CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
_GZIP_WINDOW: Final = 31  # zlib's number for "gzip header and trailer, 32 KiB window"


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record, with the fields that the fetcher uses."""

    offset: int
    timestamp: int | None
    timestamp_type: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


class MemoryRecords:
    """The batches of one fetch response; the last one may be incomplete."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._start = 0
        self._end = self._end_of_next()

    def size_in_bytes(self) -> int:
        """Return the size of all batches, including an incomplete one."""
        return len(self._data)

    def has_next(self) -> bool:
        """Return whether there is another complete batch."""
        return self._end is not None

    def next_batch(self) -> Batch | OldBatch | None:
        """Return the next complete batch; None after the last.

        Raises:
            CorruptRecordException: the bytes are no batch, and must be fetched again.
        """
        if self._end is None:
            return None
        data = memoryview(self._data)[self._start : self._end]
        is_old = len(data) > _MAGIC_OFFSET and data[_MAGIC_OFFSET] < 2  # noqa: PLR2004 - the format's version
        if len(data) < (_MAGIC_OFFSET if is_old else _HEADER.size):
            message = f"a record batch of {len(data)} bytes is less than its own header"
            raise CorruptRecordException(message)
        self._start = self._end
        self._end = self._end_of_next()
        return OldBatch(data) if is_old else Batch(data)

    def _end_of_next(self) -> int | None:
        if len(self._data) - self._start < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data, self._start)
        end: int = self._start + _LENGTH.size + length
        return max(end, self._start) if end <= len(self._data) else None


class Batch:
    """One record batch of format 2; its records can be iterated once."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        (
            self.base_offset,
            self._crc,
            self._attributes,
            last_delta,
            self._first_timestamp,
            self._max_timestamp,
            self.producer_id,
            self._count,
        ) = _HEADER.unpack_from(data)
        # At least one offset: the fetcher must never seek backwards.
        self.next_offset: int = self.base_offset + max(0, last_delta) + 1
        self.is_transactional = bool(self._attributes & _TRANSACTIONAL_MASK)
        self.is_control_batch = bool(self._attributes & _CONTROL_MASK)
        self._records = self._read()

    def validate_crc(self) -> bool:
        """Return whether the CRC-32C is that of the batch."""
        return bool(self._crc == crc32c(self._data[_ATTRIBUTES_OFFSET:]))

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __next__(self) -> Record:
        return next(self._records)

    def _read(self) -> Iterator[Record]:
        """Yield the records; from the first one that cannot be decoded on, refuse the rest."""
        lowest = self.base_offset
        try:
            for record in self._parse(self._plain()):
                yield record
                lowest = record.offset + 1
        except (IndexError, ValueError):
            reason = "a record whose fields do not fit into it"
        except _UnreadableError as error:
            reason = str(error)
        else:
            return
        yield from _refused(lowest, self.next_offset, reason, self._max_timestamp)

    def _plain(self) -> memoryview:
        """Return the bytes of all records, decompressed."""
        data = self._data[_HEADER.size :]
        codec = self._attributes & _CODEC_MASK
        name = _CODECS[codec] if codec < len(_CODECS) else f"codec {codec}"
        if name == "none":
            return data
        if name not in _DECOMPRESS:
            message = f"compressed with {name}, which is not read; gzip and zstd are"
            raise _UnreadableError(message)
        try:
            plain = _DECOMPRESS[name](data)
        except (zlib.error, zstandard.ZstdError) as error:
            message = f"no {name}: {error}"
            raise _UnreadableError(message) from error
        if len(plain) > MAX_PLAIN_BYTES:
            message = f"more than {MAX_PLAIN_BYTES} bytes once decompressed from {name}"
            raise _UnreadableError(message)
        return memoryview(plain)

    def _parse(self, data: memoryview) -> Iterator[Record]:
        position, lowest = 0, self.base_offset
        for _ in range(self._count):
            record, position = self._record(data, position)
            if not lowest <= record.offset < self.next_offset:
                message = f"offset {record.offset}, expected {lowest} to {self.next_offset - 1}"
                raise _UnreadableError(message)
            yield record
            lowest = record.offset + 1
        if position != len(data):
            message = f"{len(data) - position} bytes behind its {self._count} records"
            raise _UnreadableError(message)

    def _record(self, data: memoryview, position: int) -> tuple[Record, int]:
        """Return the record at *position*, and the position after it."""
        length, position = decode_varint(data, position)
        end = position + length
        if not position <= end <= len(data):
            message = f"a record of {length} bytes, {len(data) - position} are left"
            raise _UnreadableError(message)
        timestamp, position = decode_varint(data, position + 1)  # behind a byte of attributes
        offset, position = decode_varint(data, position)
        key, position = _bytes(data, position, end)
        value, position = _bytes(data, position, end)
        headers, position = _headers(data, position, end)
        if position != end:
            message = f"a record that ends {position - end} bytes behind its end"
            raise _UnreadableError(message)
        is_append_time = bool(self._attributes & _APPEND_TIME_MASK)
        timestamp = self._max_timestamp if is_append_time else self._first_timestamp + timestamp
        record = Record(
            self.base_offset + offset, timestamp, int(is_append_time), key, value, headers
        )
        return record, position


class OldBatch:
    """A record of Kafka's formats 0 and 1, which have no headers: refused."""

    producer_id: None = None
    is_transactional = False
    is_control_batch = False

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.base_offset, self._crc = _OLD_HEADER.unpack_from(data)
        self.next_offset: int = self.base_offset + 1

    def validate_crc(self) -> bool:
        """Return whether the CRC-32 is that of the record."""
        return bool(self._crc == zlib.crc32(self._data[_MAGIC_OFFSET:]))

    def __iter__(self) -> Iterator[Record]:
        return _refused(self.base_offset, self.next_offset, "written before Kafka 0.11", None)


class _UnreadableError(Exception):
    """The rest of a batch cannot be decoded. It is caught in this module."""


def _refused(first: int, end: int, reason: str, timestamp: int | None) -> Iterator[Record]:
    """Yield a record without bytes for each offset from *first* to before *end*.

    The key is not None, because Faust's recovery of a table stops at such a key. The value is None,
    which a table reads as the removal of a row that it does not have.
    """
    if first < end:
        logger.warning("refused the records at offsets %d to %d: %s", first, end - 1, reason)
    headers: list[tuple[str, bytes | None]] = [(REFUSED_HEADER, reason.encode())]
    for offset in range(first, end):
        yield Record(offset, timestamp, 0, b"", None, headers)


def _bytes(data: memoryview, position: int, end: int) -> tuple[bytes | None, int]:
    size, position = decode_varint(data, position)
    if size < 0:
        return None, position
    if size > end - position:
        message = f"a field of {size} bytes in a record that has {end - position} left"
        raise _UnreadableError(message)
    return data[position : position + size].tobytes(), position + size


def _headers(
    data: memoryview, position: int, end: int
) -> tuple[list[tuple[str, bytes | None]], int]:
    count, position = decode_varint(data, position)
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(min(count, KEPT_HEADERS)):
        name, position = _bytes(data, position, end)
        value, position = _bytes(data, position, end)
        headers.append(((name or b"").decode("utf-8", "backslashreplace"), value))
    return headers, end if count > KEPT_HEADERS else position


# Both return one byte more than the limit if there is more, and all there is if the data is cut.


def _gzip(data: memoryview) -> bytes:
    return zlib.decompressobj(wbits=_GZIP_WINDOW).decompress(data, MAX_PLAIN_BYTES + 1)


def _zstd(data: memoryview) -> bytearray:
    plain = bytearray()
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    for piece in decompressor.read_to_iter(data):
        plain += piece
        if len(plain) > MAX_PLAIN_BYTES:
            break
    return plain


_DECOMPRESS: Final[dict[str, Callable[[memoryview], bytes | bytearray]]] = {
    "gzip": _gzip,
    "zstd": _zstd,
}
