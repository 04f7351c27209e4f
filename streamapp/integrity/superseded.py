"""Finds superseded versions of files on this machine, and whether they may be deleted.

A version may be deleted only if the one that superseded it is complete by the newest
acknowledgements of the group, and the ids of both are the digests of files of one source and
name. A forged record on one topic deletes nothing.
"""

from __future__ import annotations

import contextlib

from typing import TYPE_CHECKING

import msgspec

from streamapp.errors import BlockMalformedError
from streamapp.integrity import inventory
from streamapp.kafka import topic_admin
from streamapp.protocol import messages as message_types
from streamapp.protocol.messages import FileStatus
from streamapp.store.metadata import FileManifest
from streamapp.store.walk import FileFolder


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable, Iterable, Iterator

    from confluent_kafka import Message

    from streamapp.integrity.inventory import Key
    from streamapp.protocol.messages import BlockAck
    from streamapp.settings import Settings


class Superseded(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier version in *folders* of this machine; the current one is the file *by*."""

    file: FileManifest
    by: str
    folders: tuple[FileFolder, ...]

    @property
    def blocks(self) -> frozenset[int]:
        """The numbers of its blocks on this machine."""
        return frozenset[int]().union(*(folder.blocks for folder in self.folders))


class Versions:
    """The versions of the files in *disks*, by the topics, for *group*.

    It takes every FileStatus, then `begin`, then every acknowledgement, each in order. `is_still`
    respects later status.
    """

    def __init__(self, disks: Iterable[FileFolder], *, group: str) -> None:
        self._group = group
        self._disks: dict[str, list[FileFolder]] = {}
        for folder in disks:
            self._disks.setdefault(folder.file.file_id, []).append(folder)
        self._status: dict[str, FileStatus] = {}  # those that are superseded
        self._found: list[Superseded] = []
        self._earlier: set[str] = set()  # their ids
        self._files: dict[str, FileManifest] = {}  # by the id of their current version
        self._blocks: dict[str, set[int]] = {}  # what is acknowledged of a current version
        self._totals: dict[str, int] = {}
        self._acks: dict[Key, BlockAck] = {}  # of the earlier versions

    def take_status(self, file_id: str, status: FileStatus | None) -> None:
        """Take the next status of a file; None deletes it."""
        if status is not None and status.state == "superseded":
            self._status[file_id] = status
        else:
            self._status.pop(file_id, None)

    def begin(self) -> None:
        """Find the superseded versions, after all status was taken."""
        for file_id, found in self._disks.items():
            file = found[0].file
            if not any(folder.blocks for folder in found):
                continue
            by = self._current(file) if file.identifies_itself else ""
            if by:
                self._earlier.add(file_id)
                self._found.append(Superseded(file=file, by=by, folders=tuple(found)))
                self._files[by] = file
                self._blocks[by] = set()

    def take(self, ack: BlockAck) -> None:
        """Take the next acknowledgement."""
        if ack.group != self._group or ack.outcome == "rejected":
            return
        is_persisted = ack.outcome == "persisted"
        if ack.file_id in self._files:
            is_right = is_persisted and _is_version(self._files[ack.file_id], ack)
            blocks = self._blocks[ack.file_id]
            (blocks.add if is_right else blocks.discard)(ack.block)
            if is_right:
                self._totals[ack.file_id] = ack.blocks
        if ack.file_id in self._earlier and is_persisted:
            self._acks[ack.file_id, ack.block] = ack
        else:
            self._acks.pop((ack.file_id, ack.block), None)

    def superseded(self) -> Iterator[Superseded]:
        """Yield the earlier versions, whether they may be deleted or not."""
        yield from self._found

    def is_still(self, version: Superseded) -> bool:
        """Return whether *version* is still superseded by the same one."""
        return self._current(version.file) == version.by

    def may_go(self, version: Superseded) -> bool:
        """Return whether the group has all of the current version."""
        return len(self._blocks[version.by]) == self._totals.get(version.by)

    def acknowledged(self, version: Superseded, machine: str) -> list[BlockAck]:
        """Return the newest acknowledgements of its blocks on *machine*."""
        numbers = range(version.file.blocks)
        newest = (self._acks.get((version.file.file_id, number)) for number in numbers)
        return [ack for ack in newest if ack is not None and ack.machine == machine]

    def _current(self, file: FileManifest) -> str:
        """Return the id of the current version of *file*; empty if it is that, or none is known."""
        seen, file_id = {file.file_id}, file.file_id
        while (status := self._status.get(file_id)) is not None:
            file_id = status.superseded_by
            is_same = (status.name, status.source) == (file.name, file.source)
            if not is_same or not file_id or file_id in seen:
                return ""
            seen.add(file_id)
        return "" if file_id == file.file_id else file_id


def _is_version(file: FileManifest, ack: BlockAck) -> bool:
    """Return whether *ack* is about a version of *file*, and its id is the digest of its fields."""
    if (ack.name, ack.source) != (file.name, file.source) or not ack.mtime_ns:
        return False
    return msgspec.structs.replace(
        file,
        file_id=ack.file_id,
        size=ack.file_size,
        blocks=ack.blocks,
        block_size=ack.block_size,
        mtime_ns=int(ack.mtime_ns),
        version=ack.version,
    ).identifies_itself


def read_status(
    settings: Settings, take: Callable[[str, FileStatus | None], None], stop: threading.Event
) -> None:
    """Pass every FileStatus that is on the topic now to *take*, in order; None is a tombstone.

    Raises:
        ClusterError: they cannot be read.
    """
    with followed_status(settings, take, stop):
        pass


@contextlib.contextmanager
def followed_status(
    settings: Settings, take: Callable[[str, FileStatus | None], None], stop: threading.Event
) -> Iterator[Callable[[threading.Event], None]]:
    """Read as `read_status` does; yield a function that reads the records published since.

    Raises:
        ClusterError: they cannot be read.
    """

    def on_records(messages: list[Message]) -> None:
        for message in messages:
            key = (message.key() or b"").decode("ascii", "replace")
            if message.value() is None:
                take(key, None)
                continue
            try:
                status = message_types.decode_status(message.value())
            except BlockMalformedError:
                continue
            if isinstance(status, FileStatus):
                take(status.file_id, status)

    topic = topic_admin.names(settings).status
    with inventory.followed(settings, topic, on_records, stop) as catch_up:
        yield catch_up
