"""Compression of frames: what goes in comes out, and nothing else comes out of anything."""

import functools
import hashlib
import tracemalloc

import pytest
import zstandard

from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import BlockCorruptError
from streamapp.protocol import compression as codecs
from streamapp.protocol.compression import Compression
from streamapp.protocol.frames import MAX_FRAME_BYTES, Codec


COMPRESSED = [Codec.ZSTD, Codec.GZIP]
BOMB_BYTES = 64 << 20
NOISE = hashlib.shake_256(b"noise").digest(4096)


def encoded(data, codec_):
    """Return *data* encoded, as bytes."""
    return bytes(codecs.encode(data, codec_))


@functools.cache
def bomb_of(codec_):
    """Return a few KiB that become 64 MiB."""
    return encoded(bytes(BOMB_BYTES), codec_)


@given(st.binary(max_size=5000), st.sampled_from(Codec))
def test_round_trip(data, codec_):
    """Encoded bytes are decoded to the same bytes, from bytes and from a memoryview."""
    assert data == codecs.decode(encoded(data, codec_), codec_, length=len(data))
    assert data == codecs.decode(encoded(memoryview(data), codec_), codec_, length=len(data))


@pytest.mark.parametrize("codec_", Codec)
def test_largest_frame(codec_):
    """The largest frame that may travel can be decoded."""
    data = bytes(MAX_FRAME_BYTES)

    assert data == codecs.decode(encoded(data, codec_), codec_, length=MAX_FRAME_BYTES)


@pytest.mark.parametrize("codec_", Codec)
def test_empty(codec_):
    """A frame without bytes has an empty value, or none; whatever else it has is refused."""
    assert b"" == codecs.encode(b"", codec_)
    assert b"" == codecs.decode(b"", codec_, length=0)
    assert b"" == codecs.decode(None, codec_, length=0)
    with pytest.raises(BlockCorruptError):
        codecs.decode(b"x", codec_, length=0)
    with pytest.raises(BlockCorruptError):
        codecs.decode(None, codec_, length=1)


@pytest.mark.parametrize("codec_", COMPRESSED)
@pytest.mark.parametrize("length", [0, 1, 1000, 1 << 20])
def test_bomb(codec_, length):
    """Decoding never takes more memory than the declared length."""
    bomb = bomb_of(codec_)
    tracemalloc.start()
    try:
        with pytest.raises(BlockCorruptError):
            codecs.decode(bomb, codec_, length=length)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2 * length + 2 * len(bomb) + (64 << 10)


def test_bomb_that_lies():
    """A zstd stream that is longer than it says of itself is stopped where it said."""
    bomb = bytearray(bomb_of(Codec.ZSTD))
    place = bomb.index(BOMB_BYTES.to_bytes(4, "little"))
    bomb[place : place + 4] = (1000).to_bytes(4, "little")
    assert 1000 == zstandard.get_frame_parameters(bytes(bomb)).content_size

    with pytest.raises(BlockCorruptError):
        codecs.decode(bytes(bomb), Codec.ZSTD, length=1000)


def test_window():
    """A zstd stream that wants a window of 128 MiB gets none: whole it needs none, cut it fails."""
    flags, window = 0b10_000000, 17 << 3  # the size in 4 bytes; 2 ** (10 + 17)
    size, block = len(NOISE).to_bytes(4, "little"), (len(NOISE) << 3 | 1).to_bytes(3, "little")
    value = b"\x28\xb5\x2f\xfd" + bytes([flags, window]) + size + block + NOISE
    assert 1 << 27 == zstandard.get_frame_parameters(value).window_size

    assert NOISE == codecs.decode(value, Codec.ZSTD, length=len(NOISE))
    with pytest.raises(BlockCorruptError, match="too much memory"):
        codecs.decode(value[:-1], Codec.ZSTD, length=len(NOISE))


@pytest.mark.parametrize("codec_", COMPRESSED)
def test_cut_short(codec_):
    """A stream that lacks its end, be it one byte, is refused: its own check sum may be there."""
    value = encoded(NOISE, codec_)
    for cut in [*range(1, 20), len(value) // 2, len(value)]:
        with pytest.raises(BlockCorruptError):
            codecs.decode(value[:-cut], codec_, length=len(NOISE))


@pytest.mark.parametrize("codec_", COMPRESSED)
@pytest.mark.parametrize("behind", [b"\0", b"garbage", NOISE])
def test_something_behind(codec_, behind):
    """Bytes behind the stream are refused: nothing travels that no digest covers."""
    with pytest.raises(BlockCorruptError):
        codecs.decode(encoded(NOISE, codec_) + behind, codec_, length=len(NOISE))


@pytest.mark.parametrize("codec_", COMPRESSED)
@pytest.mark.parametrize("length", [len(NOISE), 2 * len(NOISE)])
def test_concatenated(codec_, length):
    """Two streams are not one frame, whichever length it declares."""
    with pytest.raises(BlockCorruptError):
        codecs.decode(2 * encoded(NOISE, codec_), codec_, length=length)


def test_skippable():
    """A zstd frame that only hides bytes is refused, before and instead of the real one."""
    hidden = (0x184D2A50).to_bytes(4, "little") + (9).to_bytes(4, "little") + b"smuggled!"
    for value in (hidden, hidden + encoded(NOISE, Codec.ZSTD)):
        for length in (0, 9, len(NOISE)):
            with pytest.raises(BlockCorruptError):
                codecs.decode(value, Codec.ZSTD, length=length)


@given(st.binary(max_size=200), st.sampled_from(Codec), st.integers(0, 300))
def test_anything(value, codec_, length):
    """Arbitrary bytes become as many bytes as declared, or are refused; nothing else happens."""
    try:
        plain = codecs.decode(value, codec_, length=length)
    except BlockCorruptError:
        return

    assert length == len(plain)


@pytest.mark.parametrize(
    ("compression", "data", "expected"),
    [
        (Compression.AUTO, b"a,b,c\n" * 1000, Codec.ZSTD),
        (Compression.AUTO, NOISE, Codec.NONE),
        (Compression.AUTO, b"", Codec.NONE),
        (Compression.ZSTD, NOISE, Codec.ZSTD),
        (Compression.GZIP, NOISE, Codec.GZIP),
        (Compression.NONE, b"a" * 1000, Codec.NONE),
    ],
)
def test_choice(compression, data, expected):
    """``auto`` compresses only data that shrinks; a codec that is set is used."""
    assert expected is codecs.choose(compression, data)
