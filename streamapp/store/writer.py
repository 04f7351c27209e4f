"""Writes one block to a ``.part`` file, and names it when it is durable.

The bytes are fsynced, then the file is renamed, then the folder is fsynced. Only then may the
block be acknowledged. A failed fsync is never retried on the same file, because the kernel may
have dropped the bytes and would report success. Instead the bytes are copied to a new file and
their SHA-256 is compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading

from typing import TYPE_CHECKING, Final, Protocol

from streamapp.errors import BlockConflictError, BlockCorruptError, StoreError
from streamapp.store import direct_io, dirfd
from streamapp.store.metadata import BlockMetadata, bin_name, metadata_name
from streamapp.units import MIB


if TYPE_CHECKING:
    from pathlib import Path

    from streamapp.store.free_space import FreeSpace, Reservation

_part_numbers: Final = itertools.count()


class WriterFolder(Protocol):
    """The part of `DataFolder` that a writer needs."""

    path: Path
    identity: str
    free_space: FreeSpace
    naming: threading.Lock

    def read_metadata(self, fd: int, block: int, blocks: int) -> BlockMetadata | None:
        """Return the metadata of a block in the folder *fd*; None unless its bytes are there."""

    def named(self, meta: BlockMetadata, *, is_replaced: bool) -> None:
        """Count a block that has its final name now; *is_replaced*: a bad block had it before."""

    def check_place(self) -> None:
        """Prove that the data folder's path still leads to it."""

    def check_folder(self, file_id: str, fd: int) -> None:
        """Prove that the folder *fd* is the file's folder."""

    def tidy(self, file_id: str) -> None:
        """Remove the file's folder if no block is in it."""

    def forget(self, writer: BlockWriter) -> None:
        """Release the disk space that is reserved for *writer*."""


class BlockWriter:
    """Writes one block. Every method may be called from any thread."""

    def __init__(  # noqa: PLR0913 - the folder, and the block
        self,
        root: WriterFolder,
        fd: int,
        reservation: Reservation,
        *,
        file_id: str,
        block: int,
        blocks: int,
    ) -> None:
        """Create a ``.part`` file in the folder *fd*, which the writer then owns."""
        self._root = root
        self._folder = fd
        self._file_id, self._block, self._blocks = file_id, block, blocks
        self.reservation = reservation
        # After a rebalance, a cancelled writer may still run in its thread while the next one
        # begins. So every writer has its own file and lock.
        self._lock = threading.Lock()
        self._suspect = False  # an fsync of the file failed
        self._file = -1
        self._is_direct = False
        self._part = ""
        with dirfd.as_store_errors(f"cannot begin a block in {root.path}"):
            self._open_part()
        self.is_open = True

    @property
    def folder(self) -> str:
        """The identity of the data folder."""
        return self._root.identity

    def write(self, data: bytes, *, offset: int) -> None:
        """Write *data* at *offset* bytes into the block; may be repeated after a failure.

        Raises:
            StoreFullError: the volume has no space for it.
            StoreError: it cannot be written now.
        """
        with self._lock, dirfd.as_store_errors(f"cannot write in {self._root.path}"):
            self._check_open()
            end = offset + len(data)
            self._root.free_space.take(self.reservation, end)
            self._write(memoryview(data), offset)
            self._root.free_space.came(self.reservation, end)

    @property
    def must_yield(self) -> bool:
        """Whether this block, which waits for disk space, must be aborted for an older one."""
        return self._root.free_space.must_yield(self.reservation)

    def commit(self, meta: BlockMetadata) -> None:
        """Make the block durable and name it; may be repeated after a failure.

        A block that is already persisted with the same SHA-256 stays as it is.

        Raises:
            StoreError: it cannot be made durable now, or its folder was moved.
            BlockConflictError: other content is already persisted as this block.
            BlockCorruptError: after a failed fsync the bytes on disk differ.
        """
        with self._lock, dirfd.as_store_errors(f"cannot keep a block in {self._root.path}"):
            self._check_open()
            if self._suspect:
                self._copy_anew(meta.sha256)
            try:
                os.fsync(self._file)
            except OSError:
                self._suspect = True
                raise
            with self._root.naming:
                self._name(meta)
                # A block that was moved away with its folder must not be acknowledged.
                self._root.check_folder(self._file_id, self._folder)
            self._root.check_place()
            self._close()

    def abort(self) -> None:
        """Delete the ``.part`` file, unless the block is persisted or aborted already.

        Folders that are then empty are removed, since an unknown producer could create any number.
        """
        with self._lock:
            if self.is_open:
                with contextlib.suppress(OSError):
                    os.unlink(self._part, dir_fd=self._folder)
                self._close()
                self._root.tidy(self._file_id)

    def _write(self, data: memoryview, offset: int) -> None:
        """Write *data*. While all writes end on a page boundary, they bypass the page cache."""
        written = 0
        if self._is_direct:
            written = direct_io.write_pages(self._file, data, offset=offset)
            if written < len(data):
                direct_io.end(self._file)
                self._is_direct = False
        dirfd.write_all(self._file, data[written:], offset=offset + written)

    def _name(self, meta: BlockMetadata) -> None:
        stored = self._root.read_metadata(self._folder, self._block, self._blocks)
        if stored is not None:
            if (stored.file_id, stored.sha256) != (meta.file_id, meta.sha256):
                message = (
                    f"file {meta.file_id}, block {meta.block}: SHA-256 {meta.sha256}, "
                    f"but {stored.sha256} is stored already"
                )
                raise BlockConflictError(message)
            with contextlib.suppress(FileNotFoundError):  # an earlier try may have renamed it
                os.unlink(self._part, dir_fd=self._folder)
            os.fsync(self._folder)
            return
        at, part, name = self._folder, self._part, bin_name(self._block, self._blocks)
        is_replaced = False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=at)  # no metadata may be beside damaged bytes
            is_replaced = True
        dirfd.write_durably(metadata_name(self._block, self._blocks), meta.encode(), at=at)
        os.rename(part, name, src_dir_fd=at, dst_dir_fd=at)
        dirfd.sync_or_undo(at, lambda: os.rename(name, part, src_dir_fd=at, dst_dir_fd=at))
        self._root.named(meta, is_replaced=is_replaced)

    def _copy_anew(self, sha256: str) -> None:
        """Copy the bytes of a file whose fsync failed to a new one; compare their SHA-256."""
        old, old_part, was_direct = self._file, self._part, self._is_direct
        self._open_part()
        try:
            digest = self._copy(old_part)
            os.unlink(old_part, dir_fd=self._folder)
        except BaseException:  # the next try copies the old file again
            os.close(self._file)
            with contextlib.suppress(OSError):
                os.unlink(self._part, dir_fd=self._folder)
            self._file, self._part, self._is_direct = old, old_part, was_direct
            raise
        os.close(old)
        self._suspect = False
        if digest != sha256:
            message = f"block {self._block}: the disk lost bytes when fsync failed"
            raise BlockCorruptError(message)

    def _copy(self, part: str) -> str:
        digest = hashlib.sha256()
        offset = 0
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with dirfd.closing(os.open(part, flags, dir_fd=self._folder)) as source:
            while data := os.pread(source, MIB, offset):
                self._write(memoryview(data), offset)
                digest.update(data)
                offset += len(data)
        return digest.hexdigest()

    def _open_part(self) -> None:
        part = f"{bin_name(self._block, self._blocks)}.{next(_part_numbers)}.part"
        self._file, self._part = dirfd.create_file(part, at=self._folder), part
        self._is_direct = direct_io.begin(self._file)

    def _check_open(self) -> None:
        if not self.is_open:
            message = f"block {self._block} was thrown away while it was being written"
            raise StoreError(message)

    def _close(self) -> None:
        self.is_open = False
        os.close(self._file)
        os.close(self._folder)
        self._root.forget(self)
