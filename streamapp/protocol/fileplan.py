"""A file's identity, its division into blocks, and its digest.

Pure code. The identity needs only what ``stat`` returns, so that a second run recognizes a
file without reading it.
"""

from __future__ import annotations

import hashlib

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.protocol import filenames


if TYPE_CHECKING:
    from collections.abc import Iterable

FILE_ID_BYTES: Final = 16

IDENTIFIER: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z"
"""Names of machines, sources and groups: Kafka's rule for names, shorter for the prefix."""

VERSION: Final = r"^([0-9a-f]{16})?\Z"
"""Distinguishes later contents of a file; empty for the first one."""


class FilePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The division of a file of *file_size* bytes into blocks of *block_size* bytes."""

    file_size: int
    block_size: int

    @property
    def blocks(self) -> int:
        """The number of blocks. An empty file has one empty block."""
        return max(1, -(-self.file_size // self.block_size))

    def span(self, block: int) -> tuple[int, int]:
        """Return where *block* starts in the file and its size, in bytes."""
        start = block * self.block_size
        return start, min(self.block_size, self.file_size - start)


def file_id(  # noqa: PLR0913 - the id is the digest of these fields
    *, source: str, name: str, size: int, mtime_ns: int, block_size: int, version: str = ""
) -> str:
    """Return the file's id: 32 hexadecimal digits.

    The id is the first 16 bytes of the SHA-256 over the fields in this order, each as UTF-8
    text after its length in bytes (4 bytes, big-endian). *name* is the path as Python gives it;
    its bytes that are not UTF-8 are used as they are. The first content of a file has no
    *version*; other content with the same other fields has one, which is a sixth field.

    Raises:
        UnicodeEncodeError: *name* has an unpaired surrogate, which Windows allows.
    """
    digest = hashlib.sha256()
    for field in (source, name, size, mtime_ns, block_size, *([version] if version else [])):
        text = str(field).encode("utf-8", "surrogateescape")
        digest.update(len(text).to_bytes(4, "big") + text)
    return digest.hexdigest()[: 2 * FILE_ID_BYTES]


def original_name(  # noqa: PLR0913 - the fields of `file_id`
    file_id_: str,
    *,
    source: str,
    name: str,
    raw_name: bytes,
    size: int,
    mtime_ns: int,
    block_size: int,
    version: str = "",
) -> str | None:
    """Return the path, as Python gives it, that *file_id_* is the digest of with the other fields.

    *name* is the portable name, *raw_name* its bytes where they are not Unicode. Returns None
    if the id is not the digest of these fields.
    """
    for path in filenames.original_names(name, raw_name):
        try:
            found = file_id(
                source=source,
                name=path,
                size=size,
                mtime_ns=mtime_ns,
                block_size=block_size,
                version=version,
            )
        except UnicodeEncodeError:  # no producer sends an unpaired surrogate
            continue
        if found == file_id_:
            return path
    return None


def file_digest(block_digests: Iterable[bytes]) -> str:
    """Return the file digest: SHA-256 over the SHA-256s (32 bytes each) of its blocks, in order."""
    digest = hashlib.sha256()
    for block_digest in block_digests:
        digest.update(block_digest)
    return digest.hexdigest()


def block_partition(file_id: str, block: int, partitions: int) -> int:
    """Return the partition of ``data-blocks`` for all frames of *block*.

    Consecutive blocks of a file go to consecutive partitions.
    """
    return (int(file_id[:8], 16) + block) % partitions
