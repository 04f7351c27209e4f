"""Compresses single frames, and decodes them to at most their declared length.

Kafka's own compression lets a record of 9 KB become 300 MB in a consumer, regardless of its
fetch limit. So frames are compressed here.
"""

from __future__ import annotations

import enum
import threading
import zlib

from typing import Final

import zstandard

from streamapp.errors import BlockCorruptError
from streamapp.protocol.frames import MAX_FRAME_BYTES, Codec


ZSTD_LEVEL: Final = 1
"""325 MB/s at ratio 6 on CSV text; higher levels cost more than the network they save."""

GZIP_LEVEL: Final = 1
_GZIP_WINDOW: Final = 31  # zlib's number for "gzip header and trailer, 32 KiB window"
_SHRINKS: Final = 0.95


class Compression(enum.StrEnum):
    """How the producer compresses frames."""

    AUTO = "auto"
    ZSTD = "zstd"
    GZIP = "gzip"
    NONE = "none"


_local = threading.local()  # two threads must not use one zstandard context at once


def choose(compression: Compression, first_frame: bytes | memoryview) -> Codec:
    """Return the codec for a block, given the plain bytes of its *first_frame*.

    ``auto`` is zstd if that makes the frame at least 5 % smaller.
    """
    if compression is Compression.ZSTD:
        return Codec.ZSTD
    if compression is Compression.GZIP:
        return Codec.GZIP
    if compression is Compression.AUTO and len(encode(first_frame, Codec.ZSTD)) < _SHRINKS * len(
        first_frame
    ):
        return Codec.ZSTD
    return Codec.NONE


def encode(data: bytes | memoryview, codec: Codec) -> bytes | memoryview:
    """Return *data* compressed with *codec*; empty *data* stays empty."""
    if not data:
        return b""
    if codec is Codec.ZSTD:
        if not hasattr(_local, "zstd"):
            _local.zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        compressed: bytes = _local.zstd.compress(data)
        return compressed
    if codec is Codec.GZIP:
        return zlib.compress(data, level=GZIP_LEVEL, wbits=_GZIP_WINDOW)
    return data


def decode(data: bytes | None, codec: Codec, *, length: int) -> bytes:
    """Return the plain bytes of a frame that declares *length* of them.

    *data* is the record's value or None. At most *length* + 1 plain bytes are allocated.

    Raises:
        BlockCorruptError: *data* is not exactly one complete stream of *codec*, or has more
            or fewer plain bytes.
    """
    value = data or b""
    if not length or codec is Codec.NONE:
        plain = value
    else:
        try:
            plain = _zstd(value, length) if codec is Codec.ZSTD else _gzip(value, length)
        except (zstandard.ZstdError, zlib.error) as error:
            message = f"a frame that is no {codec.name.lower()}: {error}"
            raise BlockCorruptError(message) from error
    if len(plain) != length:
        found = f"more than {length}" if len(plain) > length else str(len(plain))
        message = f"a frame of {found} bytes once decoded, declared {length}"
        raise BlockCorruptError(message)
    return plain


def _zstd(value: bytes, length: int) -> bytes:
    # `decompress` allocates the size that the stream declares, so check that first.
    declared = zstandard.get_frame_parameters(value).content_size
    if declared != length:
        message = f"a zstd frame of {declared} bytes once decoded, declared {length}"
        raise BlockCorruptError(message)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_FRAME_BYTES)
    return decompressor.decompress(value, allow_extra_data=False)


def _gzip(value: bytes, length: int) -> bytes:
    decompressor = zlib.decompressobj(wbits=_GZIP_WINDOW)
    # One byte more than declared, so that excess bytes are detected.
    plain = decompressor.decompress(value, length + 1)
    if len(plain) <= length and not decompressor.eof:
        message = "a gzip frame that is cut short"
        raise BlockCorruptError(message)
    if decompressor.unused_data:
        message = f"a gzip frame with {len(decompressor.unused_data)} bytes behind its end"
        raise BlockCorruptError(message)
    return plain
