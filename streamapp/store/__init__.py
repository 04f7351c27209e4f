"""Stores blocks on disk: a block gets its name only when it is verified and durable.

A worker has one or several data folders. A block is written to the folder with most free space;
the others remain in use when one fails. Nothing here knows Kafka or Faust.
"""

from __future__ import annotations

import logging

from typing import TYPE_CHECKING

from streamapp.errors import StoreBusyError, StoreError
from streamapp.store.data_folder import FILE_MODE, DataFolder


if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamapp.protocol.frames import BlockMeta
    from streamapp.store.metadata import BlockMetadata
    from streamapp.store.writer import BlockWriter

__all__ = ["BlockStore"]

logger = logging.getLogger(__name__)


class BlockStore:
    """The data folders of one machine."""

    def __init__(self, paths: Sequence[Path], *, min_free: int, file_mode: int = FILE_MODE) -> None:
        self.roots = [DataFolder(path, min_free=min_free, file_mode=file_mode) for path in paths]

    def open(self) -> None:
        """Open and lock all data folders.

        Raises:
            StoreBusyError: another worker has one of them.
            StoreError: none of them can be used.
        """
        failed: list[tuple[DataFolder, StoreError]] = []
        for root in self.roots:
            try:
                root.open()
            except StoreBusyError:
                self.close()
                raise
            except StoreError as error:
                logger.error("%s", error)  # noqa: TRY400 - expected, no traceback
                failed.append((root, error))
        if len(failed) == len(self.roots):
            raise failed[0][1]
        for root, _ in failed:
            self.roots.remove(root)

    @property
    def identities(self) -> tuple[str, ...]:
        """The identities of the open data folders."""
        return tuple(root.identity for root in self.roots)

    def note_start(self, start_id: str) -> None:
        """Persist the id of the worker's start in all data folders."""
        for root in self.roots:
            root.note_start(start_id)

    @property
    def kept(self) -> tuple[int, int]:
        """The number of persisted blocks, and their bytes."""
        counts = [root.kept.counts for root in self.roots]
        return sum(blocks for blocks, _ in counts), sum(size for _, size in counts)

    def misplaced(self) -> dict[str, str]:
        """Return the errors of data folders that were moved or replaced, by identity."""
        found = {}
        for root in self.roots:
            try:
                root.check_place()
            except StoreError as error:
                found[root.identity] = str(error)
        return found

    def close(self) -> None:
        """Close and unlock all data folders."""
        for root in self.roots:
            root.close()

    @property
    def free(self) -> int:
        """Bytes that may be written, over all data folders."""
        return sum(max(0, free) for _, free in self._by_room())

    def stored(self, file_id: str, block: int) -> BlockMetadata | None:
        """Return the metadata of a block that is persisted here; None when it is not.

        Raises:
            StoreError: no readable folder has it, and one folder cannot be read.
        """
        failure: StoreError | None = None
        for root in self.roots:
            try:
                found = root.stored(file_id, block)
            except StoreError as error:
                failure = error
            else:
                if found:
                    return found
        if failure:
            raise failure
        return None

    def begin(self, file_id: str, block: int, meta: BlockMeta) -> BlockWriter:
        """Return a writer for a block, in the folder with most free space that accepts it.

        Raises:
            BlockMalformedError: the file's name cannot be used.
            StoreFullError: there is no room for it.
            StoreError: no folder can be written.
        """
        failure: StoreError | None = None
        for root, _ in self._by_room():
            try:
                return root.begin(file_id, block, meta)
            except StoreError as error:
                failure = failure or error
        raise failure or StoreError("no data folder can be used")

    def is_healthy(self) -> bool:
        """Return whether a probe file can be written durably to every data folder."""
        try:
            for root in self.roots:
                root.probe()
        except StoreError as error:
            logger.debug("%s", error)
            return False
        return True

    def set_aside(self, name: str, reason: dict[str, object], value: bytes) -> Path:
        """Quarantine an invalid record in the first folder; return its path.

        Raises:
            StoreError: it cannot be written.
        """
        return self.roots[0].set_aside(name, reason, value)

    def _by_room(self) -> list[tuple[DataFolder, int]]:
        rooms = []
        for root in self.roots:
            try:
                rooms.append((root, root.free))
            except StoreError as error:
                logger.warning("%s", error)
        return sorted(rooms, key=lambda pair: -pair[1])
