"""Records on ``block-acknowledgments`` and ``processing-status``.

Pure code. The records are JSON, so that any Kafka tool shows them. Every field is validated, and
numbers have limits, so that a record of an unknown producer cannot make a computation fail or
exhaust the memory. `docs/protocol.md` is normative. Times are seconds since 1970 (UTC), sizes are
bytes, digests are hexadecimal.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

import msgspec

from msgspec import Meta

from streamapp.errors import BlockMalformedError
from streamapp.protocol.filenames import MAX_NAME_BYTES
from streamapp.protocol.fileplan import IDENTIFIER, VERSION
from streamapp.protocol.frames import MAX_BLOCK_BYTES, MAX_BLOCKS, MAX_FILE_BYTES, MAX_OLD_ATTEMPT


MAX_RECORD_BYTES: Final = 256 * 1024
"""More than any valid record needs, even with every character escaped to six bytes."""

MAX_FAILED_BLOCKS_LISTED: Final = 100
MAX_FOLDERS_LISTED: Final = 1000
MAX_REASON: Final = 2000
MAX_FAILED_BLOCK_REASON: Final = 200

WEB_URL: Final = r"https?://(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?/?"
"""The URL of a worker's views: a host and optionally a port."""

FileId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
FolderId = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z")]
Identifier = Annotated[str, Meta(pattern=IDENTIFIER)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]  # what every JSON reader can hold exactly
BlockNumber = Annotated[int, Meta(ge=0, lt=MAX_BLOCKS)]
BlockCount = Annotated[int, Meta(ge=1, le=MAX_BLOCKS)]
BlockBytes = Annotated[int, Meta(ge=0, le=MAX_BLOCK_BYTES)]
FileBytes = Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
Attempt = Annotated[int, Meta(ge=0, le=MAX_OLD_ATTEMPT)]  # new ones are below 2^53
Partition = Annotated[int, Meta(ge=0, lt=1 << 31)]
Seconds = Annotated[float, Meta(ge=0, lt=253_402_300_800)]  # up to the year 9999
Rate = Annotated[float, Meta(ge=0)]
Label = Annotated[str, Meta(max_length=255)]
WebUrl = Annotated[str, Meta(pattern=rf"^(?:{WEB_URL})?\Z")]
Nanoseconds = Annotated[str, Meta(pattern=r"^(-?[0-9]{1,19})?\Z")]  # too large for a number
Version = Annotated[str, Meta(pattern=VERSION)]
Proof = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z")]
FileIdOrNone = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z")]
Reason = Annotated[str, Meta(max_length=MAX_REASON)]
Name = Annotated[str, Meta(max_length=MAX_NAME_BYTES)]
_Key = bytes  # `Heartbeat` has a field of that name


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Parent of all records. Unknown fields are ignored: newer versions may add some."""

    reason: Reason = ""
    at: Seconds = 0.0

    def __post_init__(self) -> None:
        """Escape and truncate the reason, which may quote any bytes, to what readers accept."""
        msgspec.structs.force_setattr(self, "reason", _readable(self.reason, MAX_REASON))


class BlockAck(_Record, frozen=True, kw_only=True, tag="block"):
    """A worker's acknowledgement, rejection or revocation of a block."""

    file_id: FileId
    block: BlockNumber
    blocks: BlockCount
    group: Identifier
    machine: Identifier
    outcome: Literal["persisted", "lost", "rejected"]
    attempt: Attempt
    size: BlockBytes
    sha256: Digest = ""
    name: Name = ""
    file_size: FileBytes = 0
    block_size: BlockBytes = 0
    source: Label = ""
    folder: FolderId = ""
    mtime_ns: Nanoseconds = ""
    ctime_ns: Nanoseconds = ""
    version: Version = ""
    version_of: FileIdOrNone = ""
    proof: Proof = ""

    @property
    def key(self) -> bytes:
        """The record's key: compaction retains one record for each file, block and group.

        A rejection has its own key: it is about one attempt, and must not replace the
        ``persisted`` record of the block. Only ``lost`` revokes that.
        """
        suffix = ":rejected" if self.outcome == "rejected" else ""
        return f"{self.file_id}:{self.block}:{self.group}{suffix}".encode()


STATES: Final = (
    "announced", "sent", "arriving", "complete", "failed", "changed", "superseded"
)  # fmt: skip
"""States of a file in the views; `arriving` follows from acknowledgements alone."""


class FailedBlock(msgspec.Struct, frozen=True):
    """A block that failed in its last attempt, and why."""

    block: BlockNumber
    reason: Annotated[str, Meta(max_length=MAX_FAILED_BLOCK_REASON)]

    def __post_init__(self) -> None:
        """Escape and truncate the reason, as `_Record` does."""
        text = _readable(self.reason, MAX_FAILED_BLOCK_REASON)
        msgspec.structs.force_setattr(self, "reason", text)


class FileStatus(_Record, frozen=True, kw_only=True, tag="file"):
    """The producer's report about a file; the newest one counts."""

    file_id: FileId
    state: Literal["announced", "sent", "complete", "failed", "changed", "superseded"]
    name: Name
    size: FileBytes
    blocks: BlockCount
    block_size: BlockBytes
    source: Label
    digest: Digest = ""
    mtime_ns: Nanoseconds = ""
    ctime_ns: Nanoseconds = ""
    version: Version = ""
    version_of: FileIdOrNone = ""
    proof: Proof = ""
    failed_blocks: Annotated[
        tuple[FailedBlock, ...], Meta(max_length=MAX_FAILED_BLOCKS_LISTED)
    ] = ()
    run_at: Seconds = 0.0
    superseded_by: FileIdOrNone = ""

    @property
    def key(self) -> bytes:
        """The record's key, the file id."""
        return self.file_id.encode()


class Heartbeat(_Record, frozen=True, kw_only=True, tag="machine"):
    """A worker's report about itself; the newest one counts."""

    machine: Identifier
    group: Identifier
    state: Literal["running", "holding", "stopping", "stopped"]
    started_at: Seconds = 0.0
    blocks: Count = 0
    bytes: Count = 0
    repeated: Count = 0
    rejected: Count = 0
    quarantined: Count = 0
    corrupt: Count = 0
    deleted_unread: Count = 0
    retention_left: float | None = None
    rate: Rate = 0.0
    free_disk: Count = 0
    open_blocks: Count = 0
    partitions: Annotated[tuple[Partition, ...], Meta(max_length=1000)] = ()
    data_dir: Name = ""
    web_url: WebUrl = ""
    version: Label = ""
    folders: Annotated[tuple[FolderId, ...], Meta(max_length=MAX_FOLDERS_LISTED)] = ()
    start_id: FolderId = ""
    interval: Seconds = 0.0
    session_timeout: Seconds = 0.0
    kept_blocks: Count = 0
    kept_bytes: Count = 0

    @property
    def key(self) -> _Key:
        """The record's key: one for each machine of a group; groups share the topic."""
        return machine_key(self.machine, self.group)


class Quarantined(_Record, frozen=True, kw_only=True, tag="quarantined"):
    """A quarantined record: its position on the topic, its *path* on disk, and the reason."""

    machine: Identifier
    group: Identifier
    topic: Label
    partition: Partition
    offset: Count
    path: Name = ""
    file_id: FileIdOrNone = ""
    block: BlockNumber = 0

    @property
    def key(self) -> bytes:
        """The record's key: one for each offset of the topic."""
        return f"{self.group}:{self.topic}:{self.partition}:{self.offset}".encode()


Status = FileStatus | Heartbeat | Quarantined

_R = TypeVar("_R")
_ACK: Final = msgspec.json.Decoder(BlockAck)
_STATUS: Final[msgspec.json.Decoder[Status]] = msgspec.json.Decoder(Status)


def machine_key(machine: str, group: str) -> bytes:
    """Return the key of a machine's heartbeats; an older version wrote *machine* alone."""
    return f"{machine}:{group}".encode()


def forgotten_machine(key: bytes | None, group: str) -> str:
    """Return the machine of *group* whose heartbeat a tombstone with *key* deletes; empty if none.

    Older versions wrote keys without a group. Such a tombstone may be about any group; a machine
    that is up sends its heartbeat again.
    """
    machine, _, of_group = (key or b"").decode("ascii", "replace").partition(":")
    return machine if of_group in {"", group} else ""


def encode(record: _Record) -> bytes:
    """Return *record* as JSON."""
    return msgspec.json.encode(record)


def decode_ack(raw: bytes | None) -> BlockAck:
    """Return the acknowledgement in *raw*.

    Raises:
        BlockMalformedError: *raw* is not one.
    """
    ack = _decode(_ACK, raw)
    if ack.blocks <= ack.block:
        message = f"an acknowledgement of block {ack.block} of {ack.blocks}"
        raise BlockMalformedError(message)
    if ack.outcome == "persisted" and not ack.sha256:
        message = f"block {ack.block} of {ack.file_id} is called persisted, without its SHA-256"
        raise BlockMalformedError(message)
    return ack


def decode_status(raw: bytes | None) -> Status:
    """Return the status record in *raw*.

    Raises:
        BlockMalformedError: *raw* is not one.
    """
    return _decode(_STATUS, raw)


def _readable(text: str, limit: int) -> str:
    if len(text) > limit or not text.isascii():  # a path in it may not be Unicode
        return text.encode("utf-8", "backslashreplace").decode()[:limit]
    return text


def _decode(decoder: msgspec.json.Decoder[_R], raw: bytes | None) -> _R:
    if raw is None or len(raw) > MAX_RECORD_BYTES:
        message = f"a record of {len(raw or b'')} bytes, expected 1 to {MAX_RECORD_BYTES}"
        raise BlockMalformedError(message)
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"no record of ours: {error}"
        raise BlockMalformedError(message) from error
