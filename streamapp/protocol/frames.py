"""Encodes and validates the headers of records on ``data-blocks``.

Pure code. A block is sent as frames, one per record. The record's value is the frame's bytes,
raw or compressed. It has at most three headers, little-endian. `docs/protocol.md` is normative.

``frame``, in every record, 52 bytes:

    offset  size  field
    0       4     magic b"SBLK"
    4       1     format version, 2
    5       1     flags: 1 first frame, 2 last frame, 4 the block is aborted
    6       1     codec: 0 none, 1 zstd, 2 gzip
    7       1     reserved, 0
    8       16    file id
    24      4     block, from 0
    28      8     attempt
    36      4     frame, from 0
    40      4     bytes of the frame once decoded
    44      8     the frame's offset in the block, in bytes

``block``, in the first frame: JSON, `BlockMeta`.
``seal``, in the last frame, 52 bytes: SHA-256 of the block's plain bytes, number of frames,
and the producer's proof that it hashed them.

Frames of version 1 are read as well: their seal has no proof, and their attempt numbers may be
larger.
"""

from __future__ import annotations

import enum
import struct

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from msgspec import Meta

from streamapp.errors import BlockMalformedError
from streamapp.protocol import filenames, fileplan
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC: Final = b"SBLK"
VERSION: Final = 2
VERSIONS: Final = (1, VERSION)
"""Versions that are read. Older producers write version 1."""

FRAME_HEADER: Final = "frame"
META_HEADER: Final = "block"
SEAL_HEADER: Final = "seal"
REFUSED_HEADER: Final = "refused"
"""Not on the wire: `streamapp.worker.aiokafka_overrides.batches` puts the reason here when a
record could not be read."""

# Unknown producers may write any header, so every size that follows from one has a limit, which
# is checked before anything is allocated.
MAX_HEADERS: Final = 8
MAX_HEADER_BYTES: Final = 16 * 1024
MAX_FRAME_BYTES: Final = 16 << 20
MAX_FRAMES: Final = 1 << 20
MAX_BLOCKS: Final = 1 << 20
MAX_BLOCK_BYTES: Final = 4 << 30
MAX_FILE_BYTES: Final = MAX_BLOCKS * MAX_BLOCK_BYTES
MAX_ATTEMPT: Final = (1 << 53) - 1
"""It is written in JSON, where larger numbers are not exact in every reader."""

MAX_OLD_ATTEMPT: Final = (1 << 63) - 1
"""The same for frames of version 1."""

PROOF_BYTES: Final = 16

OVERHEAD_BYTES: Final = MAX_HEADER_BYTES
"""Bytes of a record beside the frame: headers, key and Kafka's own framing."""

_FRAME: Final = struct.Struct("<4sBBBx16sIQIIQ")
_RESERVED_AT: Final = 7
_SEAL: Final = struct.Struct(f"<32sI{PROOF_BYTES}s")
_OLD_SEAL: Final = struct.Struct("<32sI")


class Flag(enum.IntFlag):
    """Flags of a frame."""

    FIRST = 1
    LAST = 2
    ABORT = 4


class Codec(enum.IntEnum):
    """How a frame's bytes are compressed."""

    NONE = 0
    ZSTD = 1
    GZIP = 2


_FileBytes = Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
_Nanoseconds = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class BlockMeta(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The block's and the file's data in the first frame; sizes in bytes, times in ns."""

    name: Annotated[str, Meta(min_length=1, max_length=filenames.MAX_NAME_BYTES)]
    file_size: _FileBytes
    blocks: Annotated[int, Meta(ge=1, le=MAX_BLOCKS)]
    block_size: Annotated[int, Meta(ge=1, le=MAX_BLOCK_BYTES)]
    start: _FileBytes
    size: Annotated[int, Meta(ge=0, le=MAX_BLOCK_BYTES)]
    mtime_ns: _Nanoseconds
    source: Annotated[str, Meta(pattern=fileplan.IDENTIFIER)]
    sent_ns: _Nanoseconds
    raw_name: Annotated[bytes, Meta(max_length=filenames.MAX_NAME_BYTES)] = b""
    ctime_ns: _Nanoseconds | None = None
    version: Annotated[str, Meta(pattern=fileplan.VERSION)] = ""

    @property
    def end(self) -> int:
        """The offset in the file of the first byte after the block."""
        return self.start + self.size


class Seal(msgspec.Struct, frozen=True):
    """The end of a block, in its last frame: its SHA-256 (32 bytes) and number of frames.

    *proof* (16 bytes, or empty: zeros on the wire) is only for the producer, which recognizes
    it in the acknowledgement.
    """

    sha256: bytes
    frames: int
    proof: bytes = b""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One frame's header. The first frame has *meta*, the last one *seal*."""

    file_id: str
    block: int
    attempt: int
    frame: int
    offset: int
    length: int
    codec: Codec = Codec.NONE
    abort: bool = False
    meta: BlockMeta | None = None
    seal: Seal | None = None

    @property
    def key(self) -> bytes:
        """The record's key, ``<file id>:<block>``."""
        return f"{self.file_id}:{self.block}".encode()


_META_DECODER: Final = msgspec.json.Decoder(BlockMeta)


def encode(frame: Frame) -> list[tuple[str, bytes]]:
    """Return the record headers of *frame*."""
    flags = (
        (Flag.FIRST if frame.meta else 0)
        | (Flag.LAST if frame.seal else 0)
        | (Flag.ABORT if frame.abort else 0)
    )
    packed = _FRAME.pack(
        MAGIC,
        VERSION,
        flags,
        frame.codec,
        bytes.fromhex(frame.file_id),
        frame.block,
        frame.attempt,
        frame.frame,
        frame.length,
        frame.offset,
    )
    headers = [(FRAME_HEADER, packed)]
    if frame.meta:
        headers.append((META_HEADER, msgspec.json.encode(frame.meta)))
    if frame.seal:
        headers.append((SEAL_HEADER, _SEAL.pack(*msgspec.structs.astuple(frame.seal))))
    return headers


def parse(headers: Iterable[tuple[str, bytes | None]] | None) -> Frame:
    """Return the frame that a record's *headers* describe.

    Raises:
        BlockMalformedError: the headers violate the protocol.
    """
    found = _limited(headers)
    packed = found.get(FRAME_HEADER, b"")
    if REFUSED_HEADER in found and not packed:
        reason = found[REFUSED_HEADER].decode("utf-8", "backslashreplace")
        message = f"a record batch that cannot be read: {reason!r:.200}"
        raise BlockMalformedError(message)
    if len(packed) != _FRAME.size:
        message = f"a frame header of {len(packed)} bytes, expected {_FRAME.size}"
        raise BlockMalformedError(message)
    magic, version, flags, codec, file_id, block, attempt, number, length, offset = _FRAME.unpack(
        packed
    )
    if magic != MAGIC or version not in VERSIONS:
        message = f"magic {magic!r} version {version}, expected {MAGIC!r} {VERSION}"
        raise BlockMalformedError(message)
    if flags > sum(Flag) or codec > max(Codec) or packed[_RESERVED_AT]:
        message = (
            f"flags {flags} codec {codec} reserved {packed[_RESERVED_AT]}, "
            f"expected at most {sum(Flag)}, {max(Codec)} and 0"
        )
        raise BlockMalformedError(message)
    frame = Frame(
        file_id=file_id.hex(),
        block=block,
        attempt=attempt,
        frame=number,
        offset=offset,
        length=length,
        codec=Codec(codec),
        abort=bool(flags & Flag.ABORT),
        meta=_meta(found, wanted=bool(flags & Flag.FIRST)),
        seal=_seal(found, version, wanted=bool(flags & Flag.LAST)),
    )
    _check_ranges(frame, version)
    return frame


def check_identity(file_id: str, meta: BlockMeta) -> None:
    """Validate that *file_id* is the digest of the file that *meta* describes.

    Without that, an unknown producer could store any bytes under the id of another file.

    Raises:
        BlockMalformedError: it is not.
    """
    name = fileplan.original_name(
        file_id,
        source=meta.source,
        name=meta.name,
        raw_name=meta.raw_name,
        size=meta.file_size,
        mtime_ns=meta.mtime_ns,
        block_size=meta.block_size,
        version=meta.version,
    )
    if name is None:
        message = (
            f"file id {file_id} is not the digest of its name {meta.name[:200]!r}, source "
            f"{meta.source}, {meta.file_size} bytes, time and block size: it is another file's"
        )
        raise BlockMalformedError(message)


def _limited(headers: Iterable[tuple[str, bytes | None]] | None) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    for count, header in enumerate(headers or (), start=1):
        match header:
            case (str() as name, bytes() | None as value) if name not in found:
                total += len(name) + len(value or b"")
                found[name] = value or b""
            case _:
                message = f"a header that is no name with bytes, or one twice: {header!r:.200}"
                raise BlockMalformedError(message)
        if count > MAX_HEADERS or total > MAX_HEADER_BYTES:
            message = f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them"
            raise BlockMalformedError(message)
    return found


def _meta(found: dict[str, bytes], *, wanted: bool) -> BlockMeta | None:
    if wanted != (META_HEADER in found):
        message = f"header {META_HEADER!r} {'missing in a first' if wanted else 'in a later'} frame"
        raise BlockMalformedError(message)
    if not wanted:
        return None
    try:
        return _META_DECODER.decode(found[META_HEADER])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"header {META_HEADER!r}: {error}"
        raise BlockMalformedError(message) from error


def _seal(found: dict[str, bytes], version: int, *, wanted: bool) -> Seal | None:
    if wanted != (SEAL_HEADER in found):
        message = f"header {SEAL_HEADER!r} {'missing in a last' if wanted else 'in an open'} frame"
        raise BlockMalformedError(message)
    if not wanted:
        return None
    packed = found[SEAL_HEADER]
    layout = _SEAL if version == VERSION else _OLD_SEAL
    if len(packed) != layout.size:
        message = f"header {SEAL_HEADER!r} of {len(packed)} bytes, expected {layout.size}"
        raise BlockMalformedError(message)
    sha256, frames, *proof = layout.unpack(packed)
    return Seal(sha256, frames, *filter(any, proof))


def _check_ranges(frame: Frame, version: int) -> None:
    wrong = None
    max_attempt = MAX_ATTEMPT if version == VERSION else MAX_OLD_ATTEMPT
    if frame.block >= MAX_BLOCKS or frame.frame >= MAX_FRAMES or frame.attempt > max_attempt:
        wrong = f"block {frame.block}, frame {frame.frame}, attempt {frame.attempt}"
    elif frame.length > MAX_FRAME_BYTES or frame.offset + frame.length > MAX_BLOCK_BYTES:
        wrong = f"a frame of {frame.length} bytes at {frame.offset}"
    elif (frame.frame == 0) != (frame.meta is not None):
        wrong = f"frame {frame.frame} {'with' if frame.meta else 'without'} the block's metadata"
    elif frame.seal and frame.seal.frames != frame.frame + 1:
        wrong = f"frame {frame.frame} seals a block of {counted(frame.seal.frames, 'frame')}"
    elif frame.abort and (frame.meta or frame.seal or frame.length):
        wrong = "a frame that aborts the block and yet adds to it"
    elif not (frame.length or frame.seal or frame.abort):
        # An endless sequence of such frames would keep a block open.
        wrong = f"frame {frame.frame} has no bytes, and neither seals nor aborts the block"
    if wrong:
        message = f"{frame.file_id} block {frame.block}: {wrong}"
        raise BlockMalformedError(message)
    if frame.meta:
        _check_meta(frame, frame.meta)


def _check_meta(frame: Frame, meta: BlockMeta) -> None:
    """Validate the block's position, which follows from the file size and the block size."""
    plan = fileplan.FilePlan(file_size=meta.file_size, block_size=meta.block_size)
    if (
        meta.blocks != plan.blocks
        or frame.block >= plan.blocks
        or (meta.start, meta.size) != plan.span(frame.block)
    ):
        message = (
            f"{frame.file_id} block {frame.block} of {meta.blocks}: {meta.size} bytes at "
            f"{meta.start} of {meta.file_size} in blocks of {meta.block_size} is impossible"
        )
        raise BlockMalformedError(message)
