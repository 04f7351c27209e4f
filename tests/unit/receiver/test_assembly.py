"""An assembly accepts the frames of a block only if they are the block that was sent."""

import hashlib

import msgspec
import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import BlockCorruptError, BlockError
from streamapp.protocol import compression, frames
from streamapp.protocol.frames import Codec, Seal
from streamapp.receiver.assembly import Assembly, Step
from tests.frames import FILE_ID, frames_of


DATA = st.binary(max_size=40)
FRAME_SIZE = st.integers(1, 16)
OTHER_ID = "f" * 32


class Receiver:
    """A minimal receiver: it collects frames by attempt, and blocks that pass the check."""

    def __init__(self):
        self.open = {}
        self.kept = []

    def take(self, headers, value):
        """Take one record."""
        frame = frames.parse(headers)
        key = (frame.file_id, frame.block, frame.attempt)
        if frame.meta and key not in self.open:
            self.open[key] = (Assembly(frame, frame.meta), [])
        if key not in self.open:
            return
        assembly, pieces = self.open[key]
        try:
            if assembly.place(frame) is Step.NEXT:
                data = compression.decode(value, frame.codec, length=frame.length)
                assembly.add(frame, data)
                pieces.append(data)
                if frame.seal:
                    assembly.check(frame)
                    del self.open[key]
                    self.kept.append((frame.file_id, b"".join(pieces)))
        except BlockError:
            del self.open[key]


def records_of(data, **how):
    """Return the records of one block: headers and value."""
    return [
        (frames.encode(frame), value)
        for frame, value in frames_of(data, **{"file_id": FILE_ID} | how)
    ]


@st.composite
def deliveries(draw):
    """Two attempts at a block and one at another, interleaved, with loss, repeats and swaps."""
    one, two = draw(DATA), draw(DATA)
    queues = [
        records_of(one, frame_size=draw(FRAME_SIZE), codec=draw(st.sampled_from(Codec))),
        records_of(one, frame_size=draw(FRAME_SIZE), attempt=2),
        records_of(two, frame_size=draw(FRAME_SIZE), file_id=OTHER_ID),
    ]
    came = []
    while any(queues):
        queue = draw(st.sampled_from([q for q in queues if q]))
        came += [queue.pop(0)] * draw(st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2, 3]))
    for _ in range(draw(st.integers(0, 2)) if came else 0):
        came.insert(draw(st.integers(0, len(came) - 1)), came.pop())
    return {FILE_ID: one, OTHER_ID: two}, came


@given(deliveries())
def test_any_order(delivery):
    """With any loss, repetition or order of frames, only the block that was sent passes."""
    sent, came = delivery
    receiver = Receiver()
    for record in came:
        receiver.take(*record)

    assert [] == [(file_id, data) for file_id, data in receiver.kept if data != sent[file_id]]


@given(DATA, FRAME_SIZE, st.sampled_from(Codec), st.randoms(use_true_random=False))
def test_repeated(data, size, codec_, rng):
    """Frames that are repeated after they came in order do not spoil the block."""
    records = records_of(data, frame_size=size, codec=codec_)
    receiver = Receiver()
    for number, record in enumerate(records):
        receiver.take(*record)
        if record is not records[-1]:
            for again in rng.choices(records[: number + 1], k=rng.randrange(3)):
                receiver.take(*again)

    assert [(FILE_ID, data)] == receiver.kept


@given(st.binary(min_size=1, max_size=40), FRAME_SIZE, st.sampled_from(Codec), st.data())
def test_changed_on_the_way(data, size, codec_, drawn):
    """A block with one changed bit never passes."""
    records = records_of(data, frame_size=size, codec=codec_)
    place = drawn.draw(st.integers(0, len(records) - 1))
    headers, value = records[place]
    flipped = bytearray(value)
    flipped[drawn.draw(st.integers(0, len(value) - 1))] ^= 1 << drawn.draw(st.integers(0, 7))
    records[place] = (headers, bytes(flipped))
    receiver = Receiver()
    for record in records:
        receiver.take(*record)

    # A bit of a compressed stream's own header may mean nothing: then all is as it was.
    assert receiver.kept in ([], [(FILE_ID, data)])
    assert codec_ is not Codec.NONE or receiver.kept == []


@pytest.mark.parametrize(
    "changes",
    [
        {"frame": 2},
        {"offset": 3},
        {"offset": 5},
        {"length": 7},
        {"seal": Seal(bytes(32), 2)},
        {"seal": None, "length": 1},
    ],
)
def test_does_not_fit(changes):
    """A frame is refused if one before it is missing, or if it contradicts its block."""
    first, second = frames_of(b"abcdefgh", frame_size=4)
    assembly = Assembly(first[0], first[0].meta)
    assembly.place(first[0])
    assembly.add(*first)
    frame = msgspec.structs.replace(second[0], **changes)

    def take():
        assembly.place(frame)
        assembly.add(frame, second[1])
        assembly.check(frame)

    with pytest.raises(BlockCorruptError, match=f"{frame.file_id}, block 0: "):
        take()


def test_beyond_the_block():
    """A frame that ends beyond its block is refused before its bytes are written."""
    first, second = (frame for frame, _ in frames_of(b"abcdefgh", frame_size=4))
    assembly = Assembly(first, first.meta)
    assembly.add(first, b"abcd")

    with pytest.raises(BlockCorruptError, match="ends at 9, the block has 8 bytes"):
        assembly.place(msgspec.structs.replace(second, length=5))


def test_sealed_too_early():
    """A block with missing bytes does not pass, whatever SHA-256 is declared."""
    first = frames_of(b"abcdefgh", frame_size=4)[0][0]
    sealed = msgspec.structs.replace(first, seal=Seal(hashlib.sha256(b"abcd").digest(), 1))
    assembly = Assembly(sealed, sealed.meta)
    assembly.add(sealed, b"abcd")

    with pytest.raises(BlockCorruptError, match="after 4 of 8 bytes"):
        assembly.check(sealed)


def test_holds_no_bytes():
    """Bytes that were added are hashed and not stored: an open block takes no memory."""
    data = bytes(1 << 16)
    (frame, value), *_ = frames_of(data, frame_size=1 << 16)
    assembly = Assembly(frame, frame.meta)
    assembly.add(frame, value)

    assert hashlib.sha256(data).digest() == assembly.sha256
    assert [] == [v for v in vars(assembly).values() if isinstance(v, bytes) and len(v) > 32]


@pytest.mark.parametrize("data", [b"12", b"1234"])
def test_as_many_bytes_as_declared(data):
    """A frame that decodes to fewer or more bytes than it declares is refused."""
    frame = frames_of(b"123", frame_size=3)[0][0]
    assembly = Assembly(frame, frame.meta)

    with pytest.raises(BlockCorruptError, match=f"has {len(data)} bytes, declared 3"):
        assembly.add(frame, data)
