"""Bad blocks for `data-blocks`: each function returns the records of one of them."""

from streamapp.protocol import frames
from tests import harness
from tests.harness import MIB


def honest(rng, **meta):
    """Return a valid block of three frames, to be spoiled."""
    return harness.RawBlock(rng, size=9000, frames=3, **meta)


def flipped_value(rng):
    """A frame of which one bit flipped on the way."""
    records = honest(rng).records()
    key, value, headers = records[1]
    damaged = bytearray(value)
    damaged[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
    return [records[0], (key, bytes(damaged), headers), records[2]]


def truncated_value(rng):
    """A frame that lost its end."""
    records = honest(rng).records()
    key, value, headers = records[1]
    return [records[0], (key, value[: rng.randrange(len(value))], headers), records[2]]


def flipped_header(rng):
    """Any bit of the last frame's header but those of its file id and attempt: see `foreign`."""
    records = honest(rng).records()
    key, value, headers = records[2]
    name, packed = headers[0]
    damaged = bytearray(packed)
    damaged[rng.choice([*range(8), *range(36, len(packed))])] ^= 1 << rng.randrange(8)
    return [*records[:2], (key, value, [(name, bytes(damaged)), *headers[1:]])]


def foreign(rng):
    """A middle frame of another attempt."""
    block = honest(rng)
    records = block.records()
    block.attempt += 1
    return [records[0], block.records()[1], records[2]]


def missing_frame(rng):
    """A block whose middle frame never comes."""
    records = honest(rng).records()
    del records[rng.randrange(1, 2)]
    return records


def reordered(rng):
    """Frames in the wrong order."""
    first, second, third = honest(rng).records()
    return [first, third, second]


def swapped(rng):
    """A frame's bytes from another file."""
    ours, others = honest(rng).records(), honest(rng).records()
    key, _, headers = ours[1]
    return [ours[0], (key, others[1][1], headers), ours[2]]


def wrong_digest(rng):
    """A block that is not what its seal says."""
    block = honest(rng)
    block.sha256 = rng.randbytes(32)
    return block.records()


def hostile_name(rng):
    """A name that leads out of the data folder, or is none."""
    names = ("../../etc/passwd", "/etc/passwd", "a/../../b", "..", "a//b", "a/\0b", "x" * 5000)
    return honest(rng, name=rng.choice(names)).records()


def impossible(rng):
    """Numbers that contradict each other."""
    lies = ({"blocks": 7}, {"file_size": -1}, {"start": 5}, {"block_size": 0})
    return honest(rng, **rng.choice(lies)).records()


def garbage(rng):
    """Random bytes where the frame's header should be."""
    return [(rng.randbytes(8), rng.randbytes(100), [("frame", rng.randbytes(52))])]


def headless(rng):
    """A record of something else."""
    return [(None, rng.randbytes(50), [])]


def many_headers(rng):
    """More headers than any frame has."""
    return [(b"k", b"v", [(f"h{n}", b"") for n in range(rng.randrange(9, 2000))])]


def cut_short(rng):
    """A block whose producer died: its last frame never comes."""
    return honest(rng).records()[:2]


def bomb(rng):
    """A frame that says it is small and is not."""
    block = honest(rng)
    bomb = harness.zstd_bomb(64 * MIB)
    (key, _, _), *rest = block.records()
    frame = block.frames()[0]
    fields = {name: getattr(frame, name) for name in frame.__struct_fields__}
    headers = frames.encode(frames.Frame(**fields | {"codec": frames.Codec.ZSTD}))
    return [(key, bomb, headers), *rest]


ON_RECORD = (
    flipped_value,
    truncated_value,
    flipped_header,
    missing_frame,
    reordered,
    swapped,
    wrong_digest,
    hostile_name,
    impossible,
    garbage,
    headless,
    many_headers,
    cut_short,
    bomb,
)
LIES = (*ON_RECORD, foreign)
