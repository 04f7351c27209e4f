"""The frames of one block, valid and spoiled, as a network or unknown producer may send them.

Pure code. Each function takes the valid frames and returns spoiled ones. These must not become
a stored block unless they include all bytes in the right order.
"""

from __future__ import annotations

import hashlib

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.protocol import fileplan, frames


if TYPE_CHECKING:
    from streamapp.producer.sources.scan import SourceFile

FRAMES: Final = 4
"""Frames of an injected block: two of them are neither first nor last."""

Piece = tuple[frames.Frame, bytes]
Record = tuple[bytes, bytes, list[tuple[str, bytes]]]


def cut(source: SourceFile, data: bytes, *, attempt: int, machine: str) -> list[Piece]:
    """Return the frames of *source*, a file of one block with the bytes *data*."""
    step = len(data) // FRAMES
    meta = frames.BlockMeta(
        name=source.name,
        file_size=len(data),
        blocks=1,
        block_size=len(data),
        start=0,
        size=len(data),
        mtime_ns=source.mtime_ns,
        source=machine,
        sent_ns=source.mtime_ns,
    )
    seal = frames.Seal(hashlib.sha256(data).digest(), FRAMES)
    pieces = []
    for number in range(FRAMES):
        start = number * step
        piece = data[start : start + step] if number < FRAMES - 1 else data[start:]
        frame = frames.Frame(
            file_id=source.file_id,
            block=0,
            attempt=attempt,
            frame=number,
            offset=start,
            length=len(piece),
            meta=None if number else meta,
            seal=seal if number == FRAMES - 1 else None,
        )
        pieces.append((frame, piece))
    return pieces


def encoded(pieces: list[Piece]) -> list[Record]:
    """Return *pieces* as records: key, value and headers."""
    return [(frame.key, data, frames.encode(frame)) for frame, data in pieces]


def drop(pieces: list[Piece]) -> list[Piece]:
    """Leave out a frame in the middle."""
    return [*pieces[:1], *pieces[2:]]


def double(pieces: list[Piece]) -> list[Piece]:
    """Send every frame twice."""
    return [piece for piece in pieces for _ in range(2)]


def reorder(pieces: list[Piece]) -> list[Piece]:
    """Exchange the two frames in the middle."""
    first, second, third, last = pieces
    return [first, third, second, last]


def flip(pieces: list[Piece]) -> list[Piece]:
    """Flip one bit in the middle of the block."""
    frame, data = pieces[1]
    half = len(data) // 2
    flipped = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
    return [pieces[0], (frame, flipped), *pieces[2:]]


def misdeclare(pieces: list[Piece]) -> list[Piece]:
    """Declare the SHA-256 of other bytes."""
    frame, data = pieces[-1]
    seal = frames.Seal(hashlib.sha256(b"other bytes").digest(), FRAMES)
    return [*pieces[:-1], (msgspec.structs.replace(frame, seal=seal), data)]


def malformed(pieces: list[Piece]) -> list[Record]:
    """Return records that no valid producer publishes, made of the first of *pieces*."""
    frame, data = pieces[0]
    meta = frame.meta
    if meta is None:
        message = "the first frame of a block has its metadata"
        raise ValueError(message)
    key, right = frame.key, dict(frames.encode(frame))
    packed = right[frames.FRAME_HEADER]
    spoiled: list[dict[str, bytes]] = [
        {},
        {frames.FRAME_HEADER: packed},
        right | {frames.FRAME_HEADER: packed[:-1]},
        right | {frames.FRAME_HEADER: b"JUNK" + packed[4:]},
        right | {frames.FRAME_HEADER: packed[:4] + b"\xff" + packed[5:]},
        right | {frames.META_HEADER: b'{"name": '},
        right | {frames.META_HEADER: b"[" * 8000},
        right | {frames.SEAL_HEADER: bytes(36)},
        right | {f"more-{number}": b"" for number in range(frames.MAX_HEADERS)},
    ]
    records: list[Record] = [(key, data, list(headers.items())) for headers in spoiled]
    lies = (
        {"name": "../../../escaped"},
        {"name": "/escaped"},
        {"start": 1},
        {"blocks": 2},
        {"file_size": meta.file_size - 1},
    )
    for lie in lies:
        # Each has its own attempt, because later frames of a rejected attempt are ignored.
        wrong = msgspec.structs.replace(meta, **lie)
        other = msgspec.structs.replace(
            frame, file_id=_id_of(wrong), attempt=frame.attempt + len(records), meta=wrong
        )
        records += encoded([(other, data)])
    another = msgspec.structs.replace(frame, file_id=bytes(16).hex(), attempt=frame.attempt + 100)
    records += encoded([(another, data)])
    return records


def _id_of(meta: frames.BlockMeta) -> str:
    return fileplan.file_id(
        source=meta.source,
        name=meta.name,
        size=meta.file_size,
        mtime_ns=meta.mtime_ns,
        block_size=meta.block_size,
    )
