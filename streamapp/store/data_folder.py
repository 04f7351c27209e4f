"""One data folder, ``processed_data_<machine>``: its lock, its content, and each file's folder.

A worker locks its data folders; the lock ends with the process. The content is read from
``file.json`` and the blocks' metadata at every start.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time

from typing import TYPE_CHECKING, Any, Final

import msgspec

from streamapp.errors import StoreError
from streamapp.store import (
    dirfd,
    discard,
    file_json,
    identity,
    lock,
    metadata,
    placement,
    quarantine,
    tally,
    walk,
)
from streamapp.store.free_space import FreeSpace
from streamapp.store.placement import PROBE
from streamapp.store.writer import BlockWriter


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamapp.protocol.frames import BlockMeta

logger = logging.getLogger(__name__)

QUARANTINE: Final = quarantine.QUARANTINE
FILE_MODE: Final = 0o640
"""Permissions of stored files: not every user of the machine may read them."""


class DataFolder:
    """One data folder. Every method may be called from any thread."""

    def __init__(self, path: Path, *, min_free: int, file_mode: int = FILE_MODE) -> None:
        """*file_mode* is for files; folders add execution for everyone who may read."""
        self.path = path
        self.free_space = FreeSpace(
            str(path),
            min_free=min_free,
            free_bytes=lambda: self._ask(dirfd.free_bytes),
            spare_files=lambda: self._ask(dirfd.spare_files),
        )
        self.identity = ""
        self.last_start = ""  # of the worker before; empty if unknown
        self.naming = threading.Lock()  # makes looking for a block and naming it one step
        self._folder_mode = file_mode | (file_mode & 0o444) >> 2 | 0o700
        self._fd = -1
        self._lock_fd = -1
        self._folders: dict[str, tuple[str, ...]] = {}  # file id -> where its blocks are
        self._writers: set[BlockWriter] = set()
        self.aside = quarantine.RefusedRecords()
        # Bad blocks that could not be moved to quarantine: they count as not persisted.
        self._condemned: set[tuple[str, int]] = set()
        self.kept = tally.Tally()

    def open(self) -> None:
        """Create and lock the folder, remove incomplete files, and index its content.

        Raises:
            StoreBusyError: another worker has it.
            StoreError: it cannot be used.
        """
        try:
            with dirfd.as_store_errors(f"cannot use the data folder {self.path}"):
                dirfd.make_path(self.path, mode=self._folder_mode)
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._lock_fd = lock.take(self.path, self._fd, mode=self._folder_mode & 0o666)
                dirfd.set_mode(self._fd, self._folder_mode)
                self.aside = quarantine.RefusedRecords(self._fd)
                left = []
                walked = walk.folders(self._fd, onerror=_log_unreadable, private=(QUARANTINE,))
                for parts, folder_fd, file_names in walked:
                    if self._clear_parts(folder_fd, file_names) and parts[:1] != (QUARANTINE,):
                        left.append(parts)
                    if metadata.FILE_JSON in file_names and parts[:1] != (QUARANTINE,):
                        self._index(parts, folder_fd, file_names)
                    # A worker that died may not have made its names durable.
                    os.fsync(folder_fd)
                self._tidy_all(left)
                self._identify()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unlock the folder; blocks that are not persisted yet are aborted."""
        for writer in list(self._writers):
            writer.abort()
        for fd in (self._lock_fd, self._fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def note_start(self, start_id: str) -> None:
        """Persist *start_id*, the id of the worker's start, beside the folder's identity."""
        identity.write(self._fd, identity.FolderFile(folder=self.identity, start_id=start_id))

    def check_place(self) -> None:
        """Check that the path still leads to this folder.

        Raises:
            StoreError: the folder was moved, replaced or unmounted.
        """
        identity.check_place(self.path, self._fd)

    def check_folder(self, file_id: str, fd: int) -> None:
        """Check that the folder *fd* is still the folder of the file *file_id*.

        Raises:
            OSError: its path cannot be read.
            StoreError: the folder was moved or replaced.
        """
        parts = self._folders.get(file_id, ())
        found = dirfd.found_path(parts, at=self._fd)
        if found is not None:
            with dirfd.closing(found):
                if os.path.samestat(os.fstat(found), os.fstat(fd)):
                    return
        message = f"the folder of file {file_id} in {self.path} was moved or replaced"
        raise StoreError(message)

    @property
    def free(self) -> int:
        """Bytes that may be written here, without the reserve and reservations."""
        return self.free_space.free

    def stored(self, file_id: str, block: int) -> metadata.BlockMetadata | None:
        """Return the metadata of a block that is persisted here; None when it is not.

        Raises:
            StoreError: the folder cannot be read.
        """
        parts = self._folders.get(file_id)
        if parts is None:
            return None
        self.check_place()
        # The lock is needed because a block has its name just before that is durable.
        with self.naming, dirfd.as_store_errors(f"cannot read {self.path}"):
            fd = dirfd.found_path(parts, at=self._fd)
            if fd is None:
                self._folders.pop(file_id, None)
                return None
            with dirfd.closing(fd):
                file = file_json.read(fd)
                if file is None or file.file_id != file_id:  # it was damaged since the last look
                    file = file_json.resolve(fd)
                if file is None or file.file_id != file_id:
                    return None
                found = self.read_metadata(fd, block, file.blocks)
                is_it = found is not None and (found.file_id, found.block) == (file_id, block)
                return found if is_it else None

    def begin(self, file_id: str, block: int, meta: BlockMeta) -> BlockWriter:
        """Return a writer for a block, with free space for its first bytes.

        Raises:
            StoreFullError: there is no room for it.
            StoreError: the folder cannot be written, or was moved.
        """
        self.check_place()
        reservation = self.free_space.begin(source=meta.source, size=meta.size)
        try:
            with self.naming:
                with dirfd.as_store_errors(f"cannot make a folder in {self.path}"):
                    fd = self._file_folder(file_id, meta)
                try:
                    writer = BlockWriter(
                        self, fd, reservation, file_id=file_id, block=block, blocks=meta.blocks
                    )
                except BaseException:
                    os.close(fd)
                    raise
                self._writers.add(writer)
                return writer
        except BaseException:
            self.free_space.release(reservation)
            self.tidy(file_id)
            raise

    def probe(self) -> None:
        """Check that a file can be written durably.

        Raises:
            StoreError: it cannot, or the folder was moved.
        """
        self.check_place()
        with dirfd.as_store_errors(f"cannot write to {self.path}"):
            dirfd.write_durably(PROBE, b"probe", at=self._fd)
            os.unlink(PROBE, dir_fd=self._fd)

    def set_aside(self, name: str, reason: dict[str, object], value: bytes) -> Path:
        """Write an invalid record and *reason* to ``quarantine/``; return the path.

        Raises:
            StoreFullError: the quarantine or the volume is full.
            StoreError: it cannot be written.
        """
        text = json.dumps(reason, indent=2, default=str).encode() + b"\n"
        self.check_place()
        self.free_space.check(len(text) + len(value))
        with dirfd.as_store_errors(f"cannot set aside in {self.path}"):
            self.aside.keep(self._fd, name, text, value)
        return self.path / QUARANTINE / f"{name}.json"

    def quarantine(self, parts: tuple[str, ...], stem: str, name: str, why: dict[str, Any]) -> Path:
        """Move a bad block to ``quarantine/``, under *name* and with *why*; return its path.

        Raises:
            StoreError: it cannot be moved.
        """
        with self.naming, dirfd.as_store_errors(f"cannot quarantine in {self.path}"):
            chosen = quarantine.move(self._fd, parts, stem, name, why)
        return self.path / QUARANTINE / f"{chosen}.bin"

    def discard(self, parts: tuple[str, ...], file: metadata.FileManifest, block: int) -> None:
        """Delete a good block of *file* in the folder *parts* durably, and the folder if empty.

        Raises:
            StoreError: it cannot be deleted, or the data folder was moved.
        """
        self.check_place()
        with (
            self.naming,
            dirfd.as_store_errors(f"cannot delete a block in {self.path}"),
            dirfd.closing(dirfd.open_path(parts, at=self._fd)) as fd,
        ):
            discard.discard(fd, metadata.stem(block, file.blocks))
        self.kept.remove(file.size_of(block))
        self.tidy(file.file_id)

    def condemn(self, file_id: str, block: int) -> bool:
        """Treat a bad block that cannot be moved as not persisted, until a good one replaces it.

        Returns False if it was already condemned.
        """
        is_new = (file_id, block) not in self._condemned
        self._condemned.add((file_id, block))
        return is_new

    def untold_losses(self) -> list[tuple[str, dict[str, Any]]]:
        """Return name and record of every quarantined block whose loss is not published.

        Raises:
            StoreError: they cannot be read.
        """
        with dirfd.as_store_errors(f"cannot read the quarantine of {self.path}"):
            return list(quarantine.untold(self._fd))

    def mark_told(self, name: str) -> None:
        """Record that the loss of the quarantined block *name* is published.

        Raises:
            StoreError: it cannot be recorded. The loss is then published again, harmlessly.
        """
        with dirfd.as_store_errors(f"cannot note a loss in {self.path}"):
            quarantine.mark_told(self._fd, name, time.time())

    def mend(self, parts: tuple[str, ...]) -> None:
        """Rewrite the ``file.json`` of the folder *parts* from the metadata of its blocks.

        Raises:
            StoreError: it cannot be written.
        """
        with (
            self.naming,
            dirfd.as_store_errors(f"cannot mend a folder in {self.path}"),
            dirfd.closing(dirfd.open_path(parts, at=self._fd)) as fd,
        ):
            file = file_json.mend(fd)
            if file is not None:
                self._folders.setdefault(file.file_id, parts)

    def forget(self, writer: BlockWriter) -> None:
        """Release the reservation of *writer*."""
        self._writers.discard(writer)
        self.free_space.release(writer.reservation)

    def tidy(self, file_id: str) -> None:
        """Remove the folder of a file that has no block, persisted or being written."""
        # The lock is needed because a new block has its folder just before its first file.
        with self.naming, contextlib.suppress(OSError):
            parts = self._folders.get(file_id)
            if parts is not None and placement.remove_unused(self._fd, parts):
                del self._folders[file_id]

    def _ask(self, question: Callable[[int], int]) -> int:
        with dirfd.as_store_errors(f"cannot ask {self.path}"):
            return question(self._fd)

    def read_metadata(self, fd: int, block: int, blocks: int) -> metadata.BlockMetadata | None:
        """Return the metadata of a block in the folder *fd*; None unless its bytes are there.

        Raises:
            OSError: the folder cannot be read.
        """
        meta = walk.read_block(fd, block, blocks)
        if meta is None or (meta.file_id, meta.block) in self._condemned:
            return None
        return msgspec.structs.replace(meta, folder=self.identity)

    def named(self, meta: metadata.BlockMetadata, *, is_replaced: bool) -> None:
        """Count a block that has its name now; *is_replaced*: a bad block had it before."""
        is_counted = is_replaced and (meta.file_id, meta.block) not in self._condemned
        if not is_counted:
            self.kept.add(meta.size)
        self._condemned.discard((meta.file_id, meta.block))

    def _identify(self) -> None:
        """Read the folder's identity; create one if there is none."""
        found = identity.read(self._fd)
        if found is None:
            found = identity.FolderFile(folder=identity.new_id())
            identity.write(self._fd, found)
        self.identity, self.last_start = found.folder, found.start_id

    def _clear_parts(self, folder_fd: int, file_names: list[str]) -> bool:
        """Remove incomplete files; return whether there were any."""
        halves = [name for name in file_names if name.endswith(".part")]
        for name in halves:
            self._clear_metadata(name, folder_fd, file_names)
            os.unlink(name, dir_fd=folder_fd)
        return bool(halves)

    def _tidy_all(self, left: list[tuple[str, ...]]) -> None:
        """Remove those folders of *left* that have no block."""
        files = {parts: file_id for file_id, parts in self._folders.items()}
        for parts in filter(None, left):
            with contextlib.suppress(OSError):
                if placement.remove_unused(self._fd, parts):
                    self._folders.pop(files.get(parts, ""), None)

    @staticmethod
    def _clear_metadata(part: str, folder_fd: int, file_names: list[str]) -> None:
        """Remove the metadata of an unfinished block, which were written just before its name.

        Any other metadata without bytes mean that a block was lost, so they stay.
        """
        if found := metadata.BLOCK.match(part):
            beside = f"{found[1]}_metadata.json"
            if beside in file_names and f"{found[1]}.bin" not in file_names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=folder_fd)

    def _index(self, parts: tuple[str, ...], folder_fd: int, file_names: list[str]) -> None:
        """Index the file in the folder *parts*; rewrite its ``file.json`` if it is damaged."""
        file = file_json.read(folder_fd)
        if file is None:
            logger.error("%s has rotted in the folder %s", metadata.FILE_JSON, "/".join(parts))
            file = file_json.mend(folder_fd)
        if file is not None:
            self._folders[file.file_id] = parts
            self.kept.add_folder(file, file_names)

    def _file_folder(self, file_id: str, meta: BlockMeta) -> int:
        """Return a descriptor of the file's folder; create it and its ``file.json`` if needed."""
        file = metadata.file_of(file_id, meta)
        parts, fd = self._own_folder(file) or placement.new_folder(self._fd, file)
        try:
            placement.identify(fd, file)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                placement.remove_unused(self._fd, parts)
            raise
        self._folders[file_id] = parts
        return fd

    def _own_folder(self, file: metadata.FileManifest) -> tuple[tuple[str, ...], int] | None:
        """Return the file's indexed folder and a descriptor; None if it is no longer the file's.

        Another process may have removed or replaced the folder.
        """
        parts = self._folders.get(file.file_id)
        if parts is None or (fd := dirfd.found_path(parts, at=self._fd)) is None:
            return None
        try:
            is_its = placement.is_free_for(file, fd)
        except BaseException:
            os.close(fd)
            raise
        if is_its:
            return parts, fd
        os.close(fd)
        return None


def _log_unreadable(error: OSError) -> None:
    logger.error("passed over a folder that cannot be read: %s", error)
