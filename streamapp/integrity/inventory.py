"""Compares a group's acknowledgements of one machine's blocks with its disks.

The newest acknowledgement of a block names the machine and the data folder. A block that this
machine should have and has not is `missing`. It must be published as ``lost``, also if another
machine has acknowledged other content of the block since. A block that this machine has and that
no acknowledgement places on a machine of the group is `unacknowledged`. It must be published as
``persisted`` again. `docs/protocol.md` is normative.
"""

from __future__ import annotations

import contextlib
import threading
import time

from typing import TYPE_CHECKING

import msgspec

from streamapp.errors import BlockMalformedError
from streamapp.kafka import clients, groups, topic_admin
from streamapp.kafka.follow import Follower
from streamapp.protocol import messages
from streamapp.store import walk


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from confluent_kafka import Message

    from streamapp.protocol.messages import BlockAck
    from streamapp.settings import Settings
    from streamapp.store.metadata import BlockMetadata

Key = tuple[str, int]
"""File id and number of a block."""


class Differences:
    """Differences between the acknowledgements of *group* and the folders *disks* of *machine*.

    It takes every acknowledgement, in order.
    """

    def __init__(self, disks: Iterable[walk.FileFolder], *, group: str, machine: str) -> None:
        self._group, self._machine = group, machine
        self._disks: dict[str, list[walk.FileFolder]] = {}
        self._folders = set[str]()
        for folder in disks:
            self._folders.add(folder.folder)
            self._disks.setdefault(folder.file.file_id, []).append(folder)
        self._placed: dict[str, set[int]] = {}  # blocks whose acknowledgement is right
        self.missing: dict[Key, BlockAck] = {}

    def take(self, ack: BlockAck) -> None:
        """Take the next acknowledgement."""
        if ack.group != self._group or ack.outcome == "rejected":
            return
        key = ack.file_id, ack.block
        is_persisted = ack.outcome == "persisted"
        is_ours = ack.machine == self._machine
        is_right = self._is_in(ack) if is_ours else ack.folder not in self._folders
        if not self._is_still_missing(key, ack):
            self.missing.pop(key, None)
        if is_persisted and is_ours and not is_right and not self._has(*key):
            self.missing[key] = ack
        if ack.file_id in self._disks:
            placed = self._placed.setdefault(ack.file_id, set())
            (placed.add if is_persisted and is_right else placed.discard)(ack.block)

    def unacknowledged(self) -> Iterator[tuple[walk.FileFolder, int]]:
        """Yield the folder and number of each block here that no machine has acknowledged."""
        for file_id, found in self._disks.items():
            placed = self._placed.get(file_id, set())
            for folder in found:
                yield from ((folder, block) for block in sorted(folder.blocks - placed))

    def stored(self, file_id: str, block: int) -> BlockMetadata | None:
        """Return the metadata of a block that is complete here; None if there is none.

        Raises:
            StoreError: a folder cannot be read.
        """
        for folder in self._disks.get(file_id, ()):
            if block in folder.blocks and (found := folder.block(block)):
                return found
        return None

    def _is_still_missing(self, key: Key, ack: BlockAck) -> bool:
        """Return whether *ack* is about other content of the block, on another machine.

        The producer that verified the missing content still relies on it.
        """
        ours = self.missing.get(key)
        is_other = ack.outcome == "persisted" and ack.machine != self._machine
        return ours is not None and is_other and ack.sha256 != ours.sha256

    def _has(self, file_id: str, block: int) -> bool:
        return any(block in folder.blocks for folder in self._disks.get(file_id, ()))

    def _is_in(self, ack: BlockAck) -> bool:
        """Return whether the block is in the folder of *ack*; older versions name no folder."""
        return any(
            ack.block in folder.blocks and ack.folder in {"", folder.folder}
            for folder in self._disks.get(ack.file_id, ())
        )


def compare(
    settings: Settings,
    roots: Iterable[Path],
    *,
    machine: str,
    stop: threading.Event | None = None,
) -> Differences:
    """Return how the acknowledgements differ from what lies in the data folders *roots*.

    The disks are read first, so that blocks persisted meanwhile are on neither side.

    Raises:
        StoreError: a folder cannot be read.
        ClusterError: the acknowledgements cannot be read.
    """
    disks = walk.files_in(roots)
    found = Differences(disks, group=settings.group_id, machine=machine)
    read_acks(settings, found.take, stop or threading.Event())
    return found


def read_acks(settings: Settings, take: Callable[[BlockAck], None], stop: threading.Event) -> None:
    """Pass every acknowledgement that is on the topic now to *take*, in order.

    Raises:
        ClusterError: they cannot be read.
    """
    with followed_acks(settings, take, stop):
        pass


@contextlib.contextmanager
def followed_acks(
    settings: Settings, take: Callable[[BlockAck], None], stop: threading.Event
) -> Iterator[Callable[[threading.Event], None]]:
    """Read as `read_acks` does; yield a function that reads the records published since.

    Raises:
        ClusterError: they cannot be read.
    """

    def on_records(messages: list[Message]) -> None:
        for message in messages:
            if ack := ack_in(message):
                take(ack)

    with followed(settings, topic_admin.names(settings).acks, on_records, stop) as catch_up:
        yield catch_up


@contextlib.contextmanager
def followed(
    settings: Settings,
    topic: str,
    on_records: Callable[[list[Message]], None],
    stop: threading.Event,
) -> Iterator[Callable[[threading.Event], None]]:
    """Pass all records of *topic* to *on_records*; yield a function that reads later ones.

    Raises:
        ClusterError: they cannot be read.
    """
    places = topic_admin.file_places(topic)
    follower = Follower(clients.consumer(settings), places, on_records)
    try:
        follower.read_to(follower.begin(stop), stop)
        admin = clients.admin(settings)
        yield lambda until: follower.read_to(groups.ends(admin, places), until)
    finally:
        follower.close()


def ack_in(message: Message) -> BlockAck | None:
    """Return the acknowledgement in *message*; None if it is not valid."""
    try:
        return messages.decode_ack(message.value())
    except BlockMalformedError:
        return None


def as_lost(ack: BlockAck, reason: str) -> BlockAck:
    """Return the record that revokes *ack*."""
    return msgspec.structs.replace(
        ack, outcome="lost", sha256="", attempt=0, reason=reason, at=time.time()
    )
