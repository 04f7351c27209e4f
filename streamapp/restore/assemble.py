"""Assembles files from the blocks in data folders; only the disks are read.

Every block is hashed, and a file's SHA-256 is computed from its bytes. It walks the folders itself,
because the self-test judges `store` by it.
"""

from __future__ import annotations

import hashlib
import os

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import VerificationError
from streamapp.store import metadata
from streamapp.store.placement import PRIVATE
from streamapp.units import MIB, counted


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

READ_BYTES: Final = 4 * MIB


class JoinedFile(msgspec.Struct, kw_only=True):
    """A file in the data folders: for each block the paths that have it."""

    file: metadata.FileManifest
    blocks: dict[int, list[Path]]

    @property
    def missing(self) -> list[int]:
        """The numbers of the blocks that no folder has."""
        return [block for block in range(self.file.blocks) if block not in self.blocks]


def collect(folders: Iterable[Path]) -> dict[str, JoinedFile]:
    """Return every file of which the data *folders* have a block, by file id.

    Raises:
        VerificationError: a folder's ``file.json`` cannot be read.
    """
    found: dict[str, JoinedFile] = {}
    for root in folders:
        for path, subfolders, names in os.walk(root):
            if path == str(root):
                subfolders[:] = [name for name in subfolders if name not in PRIVATE]
            if metadata.FILE_JSON in names:
                folder = Path(path)
                file = metadata.decode_file(_bytes_of(folder / metadata.FILE_JSON))
                joined = found.setdefault(file.file_id, JoinedFile(file=file, blocks={}))
                for name in names:
                    if match := metadata.BIN.fullmatch(name):
                        joined.blocks.setdefault(int(match[1]), []).append(folder / name)
    return found


def read(joined: JoinedFile) -> Iterator[bytes]:
    """Yield the file's bytes; each block is compared with its metadata.

    Raises:
        VerificationError: a block is missing, or is not what its metadata say.
    """
    if joined.missing:
        message = f"{joined.file.name}: missing: {counted(len(joined.missing), 'block')}"
        raise VerificationError(message)
    for block in range(joined.file.blocks):
        yield from _block(joined.blocks[block][0], block, joined.file)


def sha256(joined: JoinedFile) -> str:
    """Return the whole file's SHA-256, from the bytes on disk.

    Raises:
        VerificationError: a block is missing, or is not what its metadata say.
    """
    digest = hashlib.sha256()
    for data in read(joined):
        digest.update(data)
    return digest.hexdigest()


def _block(path: Path, block: int, file: metadata.FileManifest) -> Iterator[bytes]:
    said = metadata.decode_block(
        _bytes_of(path.with_name(metadata.metadata_name(block, file.blocks)))
    )
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as source:
            while data := source.read(READ_BYTES):
                digest.update(data)
                size += len(data)
                yield data
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise VerificationError(message) from error
    if (said.file_id, said.block, said.sha256) != (file.file_id, block, digest.hexdigest()):
        message = f"{path}: SHA-256 {digest.hexdigest()}, its metadata say {said.sha256}"
        raise VerificationError(message)
    wanted = file.size_of(block)
    if size != wanted:
        message = f"{path}: {size} bytes, a file of {file.size} has {wanted} there"
        raise VerificationError(message)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise VerificationError(message) from error
