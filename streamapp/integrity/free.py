"""Deletes copies of blocks that the group does not need, each after a last check.

The data folder is locked. The machine with the acknowledged copy reports that it has the folder.
Then all acknowledgements up to now are read, and the copy is deleted. An acknowledgement that names
this machine and arrives meanwhile is revoked at the end, or by the next start of a worker.
"""

from __future__ import annotations

import threading

from typing import TYPE_CHECKING, Final

from streamapp.integrity import inventory, reconciliation


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.integrity.duplicates import Copies, FolderPresence
    from streamapp.integrity.inventory import Key
    from streamapp.protocol.messages import BlockAck
    from streamapp.store import BlockStore
    from streamapp.store.metadata import BlockMetadata
    from streamapp.store.walk import FileFolder


class Freeing:
    """Deletes second copies from *store*, each after a last check of *copies*."""

    def __init__(
        self,
        store: BlockStore,
        copies: Copies,
        presence: FolderPresence,
        catch_up: Callable[[threading.Event], None],
        stop: threading.Event,
    ) -> None:
        self._store = store
        self._roots = {root.path: root for root in store.roots}
        self._copies, self._presence = copies, presence
        self._catch_up, self._stop = catch_up, stop
        self._freed: list[Key] = []

    def free(self, folder: FileFolder, block: int) -> str:
        """Delete a block if that is safe; return an empty string, or why it was not deleted.

        Raises:
            StoreError: it cannot be read or deleted.
            ClusterError: the acknowledgements or the heartbeats cannot be read.
        """
        key = folder.file.file_id, block
        claimed = self._copies.elsewhere(key)
        if claimed is None:
            return _MOVED
        fault = self._presence.fault(claimed) or _difference(folder.block(block), claimed)
        if fault:
            return fault
        self._catch_up(self._stop)
        if self._stop.is_set():  # not all acknowledgements were read
            return "stopped"
        if not _is_same(self._copies.elsewhere(key), claimed):
            return _MOVED
        self._roots[folder.root].discard(folder.parts, folder.file, block)
        self._freed.append(key)
        return ""

    def wrongly_freed(self) -> list[BlockAck]:
        """Return the records that revoke acknowledgements of copies deleted here.

        Raises:
            StoreError: a data folder cannot be read.
            ClusterError: the acknowledgements cannot be read.
        """
        self._catch_up(threading.Event())
        newest = [ack for key in self._freed if (ack := self._copies.newest(key))]
        return [
            inventory.as_lost(ack, reconciliation.LOST)
            for ack in newest
            if self._copies.is_here(ack) and self._store.stored(ack.file_id, ack.block) is None
        ]


_MOVED: Final = "its newest acknowledgement changed meanwhile: run it again"


def _difference(stored: BlockMetadata | None, claimed: BlockAck) -> str:
    if stored is None:
        return "it is not whole: streamapp verify"
    if (stored.sha256, stored.size) != (claimed.sha256, claimed.size):
        return "it has another content than the acknowledged one"
    return ""


def _is_same(now: BlockAck | None, before: BlockAck) -> bool:
    """Return whether the newest acknowledgement still names the same copy."""
    names = ("machine", "folder", "sha256", "size")
    return now is not None and all(getattr(now, n) == getattr(before, n) for n in names)
