"""Gives damaged bytes to a parser, in a process of its own that has little memory to spare.

Called with what to give, a seed and a count; prints how many were taken and how many refused.
Any other error than the one that refuses such bytes, `MemoryError` too, ends it with a traceback.
"""

import contextlib
import itertools
import logging
import pathlib
import random
import resource
import sys

from streamapp.errors import BlockCorruptError, BlockMalformedError
from streamapp.protocol import compression, messages
from streamapp.protocol import frames as frame_headers
from streamapp.protocol.frames import MAX_FRAME_BYTES, Codec
from streamapp.worker.aiokafka_overrides.batches import MAX_PLAIN_BYTES, MemoryRecords
from tests.batches import CODECS, HEADER, bomb, built, compressed, sealed
from tests.frames import FILE_ID, frames_of


MIB = 1 << 20
BOMB_BYTES = 256 * MIB
HEADROOM = {
    "headers": 16 * MIB,
    "records": 16 * MIB,
    "frames": 4 * MAX_FRAME_BYTES,
    "batches": 3 * MAX_PLAIN_BYTES,
}
"""Bytes that a parser may take beyond what the process has when it begins."""

TOKENS = [b"\0", b"\xff", b"\x7f", b"\xff" * 4, b"\0\0\0\x80", b"\xff" * 8, b"9" * 400, b"[" * 2000]
TOKENS += [b"-", b"1e999", b'"', b"\\ud800", b"null", b"{", b"\xed\xa0\x80"]
PLAIN = b"time,value\n" * 300 + random.Random(0).randbytes(700)  # noqa: S311 - no secret


def damaged(rng, data):
    """Return *data* after some accidents, or, now and then, as it is."""
    data = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(data) + 1)
        end = at + rng.choice([0, 1, 1, 4, 40, len(data)])
        accident = rng.randrange(5)
        if accident == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif accident == 1:
            data[at:end] = rng.randbytes(len(data[at:end]))
        elif accident == 2:
            del data[at:end]
        elif accident == 3:
            data[at:at] = data[at:end]
        else:
            token = rng.choice(TOKENS)
            data[at : at + rng.choice([0, len(token)])] = token
    return bytes(data)


def headers(rng):
    """Return a test of the frame's headers, the block's metadata among them."""
    kinds = [frame_headers.encode(frame) for frame, _ in frames_of(b"abcdefgh", frame_size=3)]
    kinds += [frame_headers.encode(frames_of(b"", frame_size=3)[0][0])]

    def try_one():
        raw = [
            (name, damaged(rng, value) if rng.random() < 0.5 else value)
            for name, value in rng.choice(kinds)
        ]
        if rng.random() < 0.1:
            raw.insert(rng.randrange(len(raw) + 1), rng.choice([*raw, ("x", b""), ("seal", None)]))
        frame_headers.parse(raw)

    return try_one, BlockMalformedError


def small_records(rng):
    """Return a test of what travels on the two small topics."""
    failed = (messages.FailedBlock(block=3, reason="because"),)
    kinds = [
        messages.BlockAck(
            file_id=FILE_ID, block=1, blocks=2, group="g", machine="m", outcome="persisted",
            attempt=1, size=10, sha256="ab" * 32, name="a/b.csv", file_size=20, block_size=10,
        ),
        messages.FileStatus(
            file_id=FILE_ID, state="failed", name="a", size=20, blocks=2, block_size=10,
            source="s", failed_blocks=failed,
        ),
        messages.Heartbeat(machine="m", group="g", state="running", partitions=(0, 1), rate=1.5),
        messages.Quarantined(machine="m", group="g", topic="t", partition=0, offset=7),
    ]  # fmt: skip
    written = [(messages.encode(kind), isinstance(kind, messages.BlockAck)) for kind in kinds]

    def try_one():
        raw, is_ack = rng.choice(written)
        (messages.decode_ack if is_ack else messages.decode_status)(damaged(rng, raw))

    return try_one, BlockMalformedError


def frames(rng):
    """Return a test of a frame's value, whatever codec and length its header declares."""
    values = [(bytes(compression.encode(PLAIN, kind)), kind, len(PLAIN)) for kind in Codec]
    for kind in (Codec.ZSTD, Codec.GZIP):
        bomb_ = bytes(compression.encode(bytes(BOMB_BYTES), kind))
        values += [(bomb_, kind, length) for length in (1000, MAX_FRAME_BYTES)]
    weights = [20 if length == len(PLAIN) else 1 for _, _, length in values]

    def try_one():
        ((value, kind, length),) = rng.choices(values, weights)
        if rng.random() < 0.2:
            kind = rng.choice(list(Codec))
        if rng.random() < 0.2:
            length = rng.choice([0, 1, length - 1, length + 1, MAX_FRAME_BYTES])
        assert length == len(compression.decode(damaged(rng, value), kind, length=length))

    return try_one, BlockCorruptError


def batches(rng):
    """Return a test of a record batch with a right check sum, and of the headers in it."""
    made = frames_of(PLAIN, frame_size=1000)
    good = built([(frame.key, value, frame_headers.encode(frame)) for frame, value in made])
    kinds = [good, *(compressed(good, name) for name in CODECS)]
    kinds += [bomb(name, BOMB_BYTES) for name in ("gzip", "zstd")]
    weights = [20] * (1 + len(CODECS)) + [1, 1]

    def try_one():
        (batch,) = rng.choices(kinds, weights)
        changes = {}
        if rng.random() < 0.2:
            changes["attributes"] = rng.randrange(0x20)
        if rng.random() < 0.2:
            name = rng.choice(["count", "last_offset_delta"])
            changes[name] = rng.choice([-1, 0, 3, (1 << 31) - 1])
        body = damaged(rng, batch[HEADER.size :])
        found = MemoryRecords(sealed(batch, body, **changes)).next_batch()
        for record in itertools.islice(found or (), 100):
            frame_headers.parse(record.headers)

    return try_one, BlockMalformedError


KINDS = {"headers": headers, "records": small_records, "frames": frames, "batches": batches}


def limit_memory(headroom):
    """Let this process have *headroom* bytes more than it has, and prove that it has no more."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + headroom, used + headroom))
    with contextlib.suppress(MemoryError):
        bytearray(BOMB_BYTES)
        sys.exit("the limit of memory does not hold")


def main(kind, seed, count):
    """Give *count* damaged inputs of *kind* to its parser."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    try_one, refusal = KINDS[kind](rng)
    logging.disable(logging.CRITICAL)
    limit_memory(HEADROOM[kind])
    refused = 0
    for _ in range(count):
        try:
            try_one()
        except refusal:
            refused += 1
    sys.stdout.write(f"{count - refused} {refused}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
