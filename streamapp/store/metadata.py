"""The JSON files beside the blocks on disk: one for each block, one for each file.

Pure code. `docs/state.md` is normative. Sizes and offsets are bytes, times are seconds since
1970 (UTC) or, where the name ends so, nanoseconds.
"""

from __future__ import annotations

import re

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from streamapp.errors import VerificationError
from streamapp.protocol import fileplan
from streamapp.protocol.messages import BlockAck


if TYPE_CHECKING:
    from streamapp.protocol.frames import BlockMeta

FORMAT: Final = 1
FILE_JSON: Final = "file.json"
MAX_METADATA_BYTES: Final = 64 * 1024
_MIN_DIGITS: Final = 4
BIN: Final = re.compile(r"block_(\d{4,})\.bin")
BLOCK: Final = re.compile(r"(block_(\d{4,}))(?:\.bin|_metadata\.json)")
"""Matches both files of a block; the groups are the stem and the number."""


class Rejection(NamedTuple):
    """Why an attempt is rejected; *sha256* is of the block that is stored instead, if any."""

    reason: str
    sha256: str = ""


class BlockMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``block_NNNN_metadata.json``."""

    format: int = FORMAT
    file_id: str
    name: str
    file_size: int
    blocks: int
    block_size: int
    block: int
    start: int
    end: int
    size: int
    sha256: str
    source: str
    mtime_ns: int
    sent_ns: int
    stored_at: float
    machine: str
    group: str
    folder: str = ""
    raw_name: bytes = b""
    ctime_ns: int | None = None
    version: str = ""
    proof: str = ""

    def encode(self) -> bytes:
        """Return the JSON, indented: people read it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def acknowledgement(
        self,
        *,
        group: str,
        machine: str,
        at: float,
        attempt: int = 0,
        rejection: Rejection | None = None,
    ) -> BlockAck:
        """Return the record that *machine* has persisted the block, or rejects *attempt*.

        *at* is the time in seconds since 1970.
        """
        return BlockAck(
            file_id=self.file_id,
            block=self.block,
            blocks=self.blocks,
            group=group,
            machine=machine,
            outcome="rejected" if rejection else "persisted",
            attempt=attempt,
            size=self.size,
            sha256=rejection.sha256 if rejection else self.sha256,
            name=self.name,
            file_size=self.file_size,
            block_size=self.block_size,
            source=self.source,
            folder=self.folder,
            mtime_ns=str(self.mtime_ns),
            ctime_ns="" if self.ctime_ns is None else str(self.ctime_ns),
            version=self.version,
            version_of=file_of_block(self).version_of,
            proof="" if rejection else self.proof,
            reason=rejection.reason if rejection else "",
            at=at,
        )


class FileManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``file.json``: the file to which the folder's blocks belong."""

    format: int = FORMAT
    file_id: str
    name: str
    size: int
    blocks: int
    block_size: int
    mtime_ns: int
    source: str
    raw_name: bytes = b""
    version: str = ""

    def encode(self) -> bytes:
        """Return the JSON, indented: people read it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @property
    def is_possible(self) -> bool:
        """Whether the number of blocks follows from the sizes."""
        if self.format != FORMAT or self.block_size < 1 or self.size < 0:
            return False
        plan = fileplan.FilePlan(file_size=self.size, block_size=self.block_size)
        return plan.blocks == self.blocks

    def size_of(self, block: int) -> int:
        """Return the bytes of *block*."""
        return fileplan.FilePlan(file_size=self.size, block_size=self.block_size).span(block)[1]

    @property
    def identifies_itself(self) -> bool:
        """Whether the id is the digest of the other fields."""
        return self.is_possible and self._original_name is not None

    @property
    def version_of(self) -> str:
        """The id of the file's first version; empty when this is the first."""
        name = self._original_name
        if not self.version or name is None:
            return ""
        return fileplan.file_id(
            source=self.source,
            name=name,
            size=self.size,
            mtime_ns=self.mtime_ns,
            block_size=self.block_size,
        )

    @property
    def _original_name(self) -> str | None:
        return fileplan.original_name(
            self.file_id,
            source=self.source,
            name=self.name,
            raw_name=self.raw_name,
            size=self.size,
            mtime_ns=self.mtime_ns,
            block_size=self.block_size,
            version=self.version,
        )


_T = TypeVar("_T")

_BLOCK: Final = msgspec.json.Decoder(BlockMetadata)
_FILE: Final = msgspec.json.Decoder(FileManifest)


def file_of(file_id: str, block: BlockMeta | BlockMetadata) -> FileManifest:
    """Return the ``file.json`` of the file *file_id*, one block of which is *block*."""
    return FileManifest(
        file_id=file_id,
        name=block.name,
        size=block.file_size,
        blocks=block.blocks,
        block_size=block.block_size,
        mtime_ns=block.mtime_ns,
        source=block.source,
        raw_name=block.raw_name,
        version=block.version,
    )


def file_of_block(block: BlockMetadata) -> FileManifest:
    """Return the ``file.json`` of the file to which *block* belongs."""
    return file_of(block.file_id, block)


def decode_block(raw: bytes) -> BlockMetadata:
    """Return the block metadata in *raw*.

    Raises:
        VerificationError: *raw* is not valid.
    """
    return _decoded(_BLOCK, raw, "block metadata")


def decode_file(raw: bytes) -> FileManifest:
    """Return the file metadata in *raw*.

    Raises:
        VerificationError: *raw* is not valid.
    """
    return _decoded(_FILE, raw, FILE_JSON)


def _decoded(decoder: msgspec.json.Decoder[_T], raw: bytes, what: str) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"{what} that cannot be read: {error}"
        raise VerificationError(message) from error


def stem(block: int, blocks: int) -> str:
    """Return ``block_0000``: four digits, or as many as the last block needs."""
    return f"block_{block:0{max(_MIN_DIGITS, len(str(blocks - 1)))}d}"


def bin_name(block: int, blocks: int) -> str:
    """Return the name of the file with the block's bytes."""
    return f"{stem(block, blocks)}.bin"


def metadata_name(block: int, blocks: int) -> str:
    """Return the name of the file with the block's metadata."""
    return f"{stem(block, blocks)}_metadata.json"
