"""Walks a data folder: without a lock, also beside a running worker."""

from __future__ import annotations

import contextlib
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
    from collections.abc import Callable, Iterable, Iterator

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
        """Return the metadata of block *number*; None if it is not persisted here.

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


def folders(
    root: int, *, onerror: Callable[[OSError], None] | None = None, private: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], int, list[str]]]:
    """Yield each folder below the data folder *root*, in order: parts, descriptor, file names.

    The program's own folders are left out, except those named in *private*. *onerror* gets the
    errors of folders that cannot be listed; without it they are left out.
    """
    for path, subfolders, names, fd in os.fwalk(".", dir_fd=root, onerror=onerror):
        parts = tuple(part for part in path.split("/") if part != ".")
        subfolders[:] = sorted(s for s in subfolders if parts or s not in PRIVATE or s in private)
        yield parts, fd, names


def files(root: Path) -> Iterator[FileFolder]:
    """Yield each file's folder below the data folder *root*, with the numbers of its blocks.

    Only names are read; `FileFolder.block` finds out whether a block is whole.

    Raises:
        StoreError: the folder cannot be read.
    """
    with dirfd.opened(root) as top:
        found = identity.read(top)
        for parts, fd, names in folders(top):
            if parts and metadata.FILE_JSON in names and (file := file_json.resolve(fd)):
                yield FileFolder(
                    root=root,
                    folder=found.folder if found else "",
                    parts=parts,
                    file=file,
                    blocks=frozenset(int(m[1]) for n in names if (m := metadata.BIN.fullmatch(n))),
                )


def files_in(roots: Iterable[Path]) -> list[FileFolder]:
    """Return the files' folders below all data folders *roots*, as `files` does."""
    return [folder for root in roots for folder in files(root)]


def block_bytes(root: Path) -> int:
    """Return the bytes of all blocks below the data folder *root*; unreadable ones count as 0.

    Raises:
        StoreError: the data folder cannot be opened.
    """
    size = 0
    with dirfd.opened(root) as top:
        for _, fd, names in folders(top):
            for name in filter(metadata.BIN.fullmatch, names):
                with contextlib.suppress(OSError):
                    size += os.stat(name, dir_fd=fd, follow_symlinks=False).st_size
    return size


def read_block(fd: int, block: int, blocks: int) -> BlockMetadata | None:
    """Return the metadata of a block in the folder *fd*; None unless all its bytes are there.

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
