"""Lists which blocks lie in a data folder: without a lock, beside a running worker as well."""

from __future__ import annotations

import logging
import os
import stat

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from streamapp.errors import VerificationError
from streamapp.store import dirfd, file_json, identity, metadata
from streamapp.store.metadata import FileManifest
from streamapp.store.placement import PRIVATE


if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamapp.store.metadata import BlockMetadata

logger = logging.getLogger(__name__)


class FileFolder(msgspec.Struct, frozen=True, kw_only=True):
    """One file's folder *parts* below the data folder *root*, whose identity is *folder*."""

    root: Path
    folder: str
    parts: tuple[str, ...]
    file: FileManifest
    blocks: frozenset[int]

    def block(self, number: int) -> BlockMetadata | None:
        """Return the metadata of block *number*; None when it is not persisted here.

        Raises:
            StoreError: the folder cannot be read.
        """
        with dirfd.opened(self.root) as root:
            try:
                fd = dirfd.open_path(self.parts, at=root)
            except FileNotFoundError:
                return None
            with dirfd.closing(fd):
                found = read_block(fd, number, self.file.blocks)
        is_it = found and (found.file_id, found.block) == (self.file.file_id, number)
        return msgspec.structs.replace(found, folder=self.folder) if found and is_it else None


def files(root: Path) -> Iterator[FileFolder]:
    """Yield each file's folder below the data folder *root*, with the numbers of its blocks.

    Only names are looked at; `FileFolder.block` finds out whether a block is whole.

    Raises:
        StoreError: the folder cannot be read.
    """
    with dirfd.opened(root) as top:
        said = identity.read(top)
        for path, subfolders, names, fd in os.fwalk(".", dir_fd=top):
            parts = tuple(part for part in path.split("/") if part != ".")
            if not parts:
                subfolders[:] = [name for name in subfolders if name not in PRIVATE]
            elif metadata.FILE_JSON in names and (file := file_json.believed(fd)):
                yield FileFolder(
                    root=root,
                    folder=said.folder if said else "",
                    parts=parts,
                    file=file,
                    blocks=frozenset(int(m[1]) for n in names if (m := metadata.BIN.fullmatch(n))),
                )


def read_block(fd: int, block: int, blocks: int) -> BlockMetadata | None:
    """Return the metadata of a block in the folder *fd*; None unless its bytes are there.

    Raises:
        OSError: the folder cannot be read.
    """
    name = metadata.metadata_name(block, blocks)
    try:
        raw = dirfd.read_file(name, at=fd, limit=metadata.MAX_METADATA_BYTES)
        if raw is None:
            return None
        meta = metadata.decode_block(raw)
        found = os.stat(metadata.bin_name(block, blocks), dir_fd=fd, follow_symlinks=False)
    except (VerificationError, FileNotFoundError) as error:
        logger.debug("block %d is not whole: %s", block, error)
        return None
    except OSError as error:
        if not dirfd.is_rot(error):
            raise
        return None
    is_whole = stat.S_ISREG(found.st_mode) and found.st_size == meta.size
    return meta if is_whole else None
