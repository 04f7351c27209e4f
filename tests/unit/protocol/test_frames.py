"""The frame's headers: what is written is read back, and nothing else is believed."""

import json
import struct

import msgspec
import pytest

from hypothesis import example, given
from hypothesis import strategies as st

from streamapp.errors import BlockMalformedError
from streamapp.protocol import filenames
from streamapp.protocol import frames as frame_headers
from streamapp.protocol.fileplan import FilePlan
from streamapp.protocol.frames import BlockMeta, Codec, Frame, Seal
from tests.frames import FILE_ID, frames_of, id_of, meta_of, plan_meta


SINGLE = frames_of(b"abc", frame_size=3, file_id=FILE_ID)[0][0]
FIRST, MIDDLE, LAST = (f for f, _ in frames_of(b"abcdefgh", frame_size=3, file_id=FILE_ID))
EMPTY = frames_of(b"", frame_size=3, file_id=FILE_ID)[0][0]
ABORT = Frame(file_id=FILE_ID, block=0, attempt=1, frame=1, offset=0, length=0, abort=True)


@st.composite
def frames(draw):
    """A frame of any kind that a producer of this project may write."""
    plan = FilePlan(
        file_size=draw(st.integers(0, 1 << 40)), block_size=draw(st.integers(1 << 20, 1 << 32))
    )
    block = draw(st.integers(0, plan.blocks - 1))
    meta = plan_meta(
        plan,
        block,
        name=draw(st.text(min_size=1, max_size=99)),
        mtime_ns=draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        raw_name=draw(st.binary(max_size=99)),
        ctime_ns=draw(st.none() | st.integers(-(1 << 63), (1 << 63) - 1)),
        version=draw(st.sampled_from(["", "0123456789abcdef"])),
    )
    number = draw(st.integers(0, frame_headers.MAX_FRAMES - 1))
    kind = draw(st.sampled_from(["bytes", "bytes", "abort"])) if number else "bytes"
    offset = draw(st.integers(0, frame_headers.MAX_BLOCK_BYTES - frame_headers.MAX_FRAME_BYTES))
    return Frame(
        file_id=draw(st.binary(min_size=16, max_size=16)).hex(),
        block=block,
        attempt=draw(st.integers(0, frame_headers.MAX_ATTEMPT)),
        frame=number,
        offset=offset,
        length=draw(st.integers(1, frame_headers.MAX_FRAME_BYTES)) if kind == "bytes" else 0,
        codec=draw(st.sampled_from(Codec)),
        abort=kind == "abort",
        meta=None if number else meta,
        seal=Seal(
            draw(st.binary(min_size=32, max_size=32)),
            number + 1,
            draw(st.sampled_from([b"", bytes(range(16))])),
        )
        if kind == "bytes" and draw(st.booleans())
        else None,
    )


def headers(frame=SINGLE, /, **changes):
    """Return the headers of *frame*, with *changes* that no producer of this project makes."""
    return frame_headers.encode(msgspec.structs.replace(frame, **changes))


def old(frame=SINGLE):
    """Return the headers of *frame* as producers of version 1 wrote them."""
    (name, value), (meta, json_), (seal, sealed) = frame_headers.encode(frame)
    fields = json.loads(json_)
    for field in ("raw_name", "ctime_ns", "version"):
        del fields[field]
    packed_ = value[:4] + b"\1" + value[5:]
    return [(name, packed_), (meta, json.dumps(fields).encode()), (seal, sealed[:36])]


def packed(place, raw):
    """Return the headers of a frame whose packed header has *raw* at *place*."""
    (name, value), *others = headers()
    return [(name, value[:place] + raw + value[place + len(raw) :]), *others]


def refuse(raw):
    """Assert that *raw* headers are refused, with a message that fits into a record."""
    with pytest.raises(BlockMalformedError) as caught:
        frame_headers.parse(raw)

    assert 0 < len(str(caught.value)) < 40_000


@given(frames())
@example(SINGLE)
@example(FIRST)
@example(MIDDLE)
@example(LAST)
@example(EMPTY)
@example(ABORT)
def test_round_trip(frame):
    """A frame that is encoded and parsed is unchanged."""
    written = frame_headers.encode(frame)

    assert frame == frame_headers.parse(written)
    assert frame == frame_headers.parse(tuple(written))


def test_layout():
    """The packed header has each field where `docs/protocol.md` and the docstring say."""
    frame = msgspec.structs.replace(LAST, block=7, attempt=8, codec=Codec.GZIP)
    (_, value), (_, seal) = frame_headers.encode(frame)

    assert 52 == len(value)
    assert b"SBLK" == value[:4]
    assert (2, 2, 2, 0) == tuple(value[4:8])
    assert FILE_ID == value[8:24].hex()
    assert (7, 8, 2, 2, 6) == struct.unpack("<IQIIQ", value[24:])
    assert 52 == len(seal)
    assert (frame.seal.sha256, 3, bytes(16)) == struct.unpack("<32sI16s", seal)


@pytest.mark.parametrize(
    "attempt", [1, frame_headers.MAX_ATTEMPT + 1, frame_headers.MAX_OLD_ATTEMPT]
)
def test_version_1(attempt):
    """Frames of version 1 are parsed, with their larger attempt numbers."""
    frame = msgspec.structs.replace(SINGLE, attempt=attempt)

    assert frame == frame_headers.parse(old(frame))


def test_attempt_is_a_json_number():
    """An attempt stands in acknowledgements: it is below 2^53, what JSON holds exactly."""
    refuse(headers(attempt=1 << 53))


def test_version_1_ends_early():
    """A seal is as long as its version says."""
    (frame, meta, seal), (new_frame, _, new_seal) = old(), headers()

    refuse([frame, meta, new_seal])
    refuse([new_frame, meta, seal])


def test_key():
    """The key is the file id and the block, so that all frames of a block stay in order."""
    assert f"{FILE_ID}:0".encode() == SINGLE.key


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        [("frame", None)],
        [("frame", b"")],
        [("frame", b"SBLK")],
        headers()[1:],
        [("frame", headers()[0][1] + b"\0"), *headers()[1:]],
        [*headers(), headers()[0]],
        [*headers(), ("seal", None)],
        [*headers(), *((str(n), b"") for n in range(9))],
        [*headers(), ("x", bytes(frame_headers.MAX_HEADER_BYTES))],
        [*headers(), ("x" * frame_headers.MAX_HEADER_BYTES, b"")],
        [("frame", headers()[0][1].decode("latin-1"))],
        [(b"frame", headers()[0][1])],
        [(None, b"")],
        [("frame",)],
        [("frame", b"", b"")],
        ["frame"],
        [7],
        dict(headers()),
    ],
)
def test_headers(raw):
    """Headers that are missing, too many, too long, twice or of other types are refused."""
    refuse(raw)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"no zstd", "'no zstd'"),
        (b"a\nb\xff", r"'a\nb\\xff'"),
        (None, "''"),
        (b"z" * 999, "z" * 199),
    ],
)
def test_refused(value, said):
    """Why a record could not be read at all is passed on, in one line; also when it is forged."""
    with pytest.raises(BlockMalformedError, match="batch that cannot be read") as caught:
        frame_headers.parse([("refused", value)])

    assert str(caught.value).endswith(f": {said}" if len(said) < 100 else said)
    assert frame_headers.parse([*headers(), ("refused", value)]) == SINGLE


def test_other_headers():
    """A few headers that others added (tracing) are passed over, also without a value."""
    assert frame_headers.parse([*headers(), ("traceparent", b"00"), ("x", None)]) == SINGLE


@pytest.mark.parametrize(
    ("place", "raw"),
    [
        (0, b"SBLQ"),
        (4, b"\0"),
        (4, b"\3"),
        (5, b"\0"),
        (5, b"\1"),
        (5, b"\2"),
        (5, b"\7"),
        (5, b"\x08"),
        (5, b"\x0b"),
        (5, b"\xff"),
        (6, b"\3"),
        (24, b"\1"),
        (24, b"\xff\xff\xff\xff"),
        (28, b"\xff" * 8),
        (36, b"\1"),
        (36, b"\xff\xff\xff\xff"),
        (40, b"\1\0\0\1"),
        (44, b"\xff" * 8),
    ],
)
def test_packed(place, raw):
    """Another magic or version, and numbers that cannot be, are refused before any is used."""
    refuse(packed(place, raw))


@pytest.mark.parametrize(
    ("frame", "changes"),
    [
        (MIDDLE, {"length": 0}),
        (MIDDLE, {"frame": 0}),
        (FIRST, {"frame": 1}),
        (LAST, {"seal": Seal(bytes(32), 2)}),
        (LAST, {"seal": Seal(bytes(32), 4)}),
        (LAST, {"seal": Seal(bytes(32), 0xFFFFFFFF)}),
        (LAST, {"abort": True}),
        (FIRST, {"abort": True}),
        (FIRST, {"abort": True, "length": 0}),
        (ABORT, {"length": 1}),
        (ABORT, {"frame": 0}),
    ],
)
def test_kinds(frame, changes):
    """Kinds of frames that make no sense are refused.

    A frame without bytes that ends nothing could be sent for ever; a count that is not the
    frame's own would seal another block.
    """
    refuse(headers(frame, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"blocks": 2},
        {"blocks": 0},
        {"blocks": frame_headers.MAX_BLOCKS + 1},
        {"block_size": 0},
        {"block_size": 2},
        {"block_size": frame_headers.MAX_BLOCK_BYTES + 1},
        {"file_size": -1},
        {"file_size": 4},
        {"file_size": 10**400},
        {"start": 1},
        {"start": -3},
        {"size": 2},
        {"size": 4},
        {"mtime_ns": 1 << 63},
        {"sent_ns": -(1 << 63) - 1},
        {"name": ""},
        {"name": "x" * 4097},
        {"source": ""},
        {"source": "../x"},
        {"source": "a\n"},
        {"source": "x" * 201},
        {"name": 7},
        {"size": 3.0},
        {"size": "3"},
        {"size": True},
        {"size": None},
        {"more": 1},
    ],
)
def test_meta(changes):
    """A block's place follows from the file: metadata that says anything else is refused."""
    # Python's own JSON: msgspec writes no number of 400 digits.
    raw = json.dumps(msgspec.to_builtins(meta_of(3)) | changes).encode()

    refuse([headers()[0], ("block", raw), headers()[2]])


def test_block_behind_the_last():
    """There is no empty block behind the end of a file, though its place could be computed."""
    refuse(headers(EMPTY, block=1, meta=meta_of(0, file_size=3, block_size=3, start=3)))


@pytest.mark.parametrize("field", [f.name for f in msgspec.structs.fields(BlockMeta) if f.required])
def test_meta_is_complete(field):
    """No field of the metadata may be missing, but for those that version 1 had not."""
    plain = msgspec.to_builtins(meta_of(3))
    del plain[field]

    refuse([headers()[0], ("block", msgspec.json.encode(plain)), headers()[2]])


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"null", b"[]", b"{}", b"NaN", b"\xff", b"{", b'"', b'{"name": NaN}'),
        b'{"name":"\\ud800"}',
        b"[" * 8000,
        b'{"a":' * 3000,
        b'{"size":' + b"9" * 8000 + b"}",
        b'{"' + b"x" * 8000 + b'":1}',
    ],
)
def test_meta_is_json(raw):
    """Metadata that are not a valid JSON object are refused, however deep or long they are."""
    refuse([headers()[0], ("block", raw), headers()[2]])


@pytest.mark.parametrize("seal", [None, b"", bytes(35), bytes(37)])
def test_seal(seal):
    """A seal has exactly 36 bytes."""
    refuse([*headers()[:2], ("seal", seal)])


def test_many_headers():
    """Of 200,000 headers no more are looked at than may be there."""
    looked_at = []

    def many():
        for number in range(200_000):
            looked_at.append(number)
            yield (str(number), b"")

    refuse(many())

    assert frame_headers.MAX_HEADERS + 1 == len(looked_at)


NAMES = st.sampled_from(["frame", "block", "seal", "x"]) | st.text(max_size=5)
RAW = st.binary(max_size=60) | st.sampled_from([value for _, value in headers()])
FOREIGN = st.none() | st.integers() | st.text(max_size=3)


@given(
    st.lists(
        st.tuples(NAMES, RAW | st.none())
        | st.tuples(NAMES | FOREIGN | st.binary(max_size=3), RAW | FOREIGN)
        | FOREIGN,
        max_size=10,
    )
)
def test_anything(raw):
    """Arbitrary headers are a frame or are refused; nothing else happens."""
    try:
        frame = frame_headers.parse(raw)
    except BlockMalformedError:
        return

    assert isinstance(frame, Frame)


@given(st.integers(0, 51), st.binary(min_size=1, max_size=8))
def test_any_change(place, raw):
    """A packed header of which some bytes are others is refused, or writes as it was read."""
    changed = packed(place, raw[: 52 - place])
    try:
        frame = frame_headers.parse(changed)
    except BlockMalformedError:
        return

    assert [
        (n, v[:7] + b"\0" + v[8:] if n == "frame" else v) for n, v in changed
    ] == frame_headers.encode(frame)


@given(st.binary(max_size=200))
def test_any_meta(raw):
    """Arbitrary metadata is refused, or is the block's."""
    try:
        frame_headers.parse([headers()[0], ("block", raw), headers()[2]])
    except BlockMalformedError:
        return

    assert raw == headers()[1][1]


def test_reserved_byte():
    """Reserved bits are 0: one that is set is an error, or of a newer format."""
    (name, raw), *rest = frame_headers.encode(SINGLE)
    damaged = raw[:7] + b"\x01" + raw[8:]

    with pytest.raises(BlockMalformedError, match="reserved 1"):
        frame_headers.parse([(name, damaged), *rest])


RAW = "sal\udce9/b%41"
IDENTITY = meta_of(3, name=filenames.portable_name((RAW,)), raw_name=filenames.raw_name((RAW,)))


def identity_of(meta, path):
    """Return the id of the file of *meta* at *path*."""
    return id_of(msgspec.structs.replace(meta, name=path))


@pytest.mark.parametrize("version", ["", "0123456789abcdef"])
def test_identity(version):
    """A file id is the digest of what the first frame says, also of a name that is no Unicode."""
    meta = msgspec.structs.replace(IDENTITY, version=version)

    assert "sal%E9/b%41" == meta.name
    frame_headers.check_identity(identity_of(meta, RAW), meta)
    frame_headers.check_identity(id_of(meta_of(3, version=version)), meta_of(3, version=version))


@pytest.mark.parametrize(
    "lie",
    [
        {"file_size": 5, "size": 5},
        {"source": "other"},
        {"name": "a/c.csv", "raw_name": b""},
        {"raw_name": b"sal\xe8/b%41"},
        {"raw_name": b"sal\xe9/b%42"},
        {"mtime_ns": 2},
        {"block_size": 4},
        {"version": "0123456789abcdef"},
    ],
)
def test_forged_identity(lie):
    """Metadata of a file under the id of another file are refused."""
    file_id = identity_of(IDENTITY, RAW)
    with pytest.raises(BlockMalformedError, match=file_id):
        frame_headers.check_identity(file_id, msgspec.structs.replace(IDENTITY, **lie))


def test_old_identity():
    """Producers of version 1 did not send the bytes of a name: they are found in its escapes."""
    name = "sal\udce9"
    meta = meta_of(3, name=filenames.portable_name((name,)))

    frame_headers.check_identity(identity_of(meta, name), meta)
    frame_headers.check_identity(id_of(meta), meta)  # a name with a percent sign of its own
    with pytest.raises(BlockMalformedError):
        frame_headers.check_identity(identity_of(meta, "sal\udce8"), meta)
