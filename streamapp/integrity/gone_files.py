"""Implements `streamapp files forget`: ends files that can never be complete in the group.

Such a file was announced, its source no longer has it, and a machine with blocks of it was
forgotten. Nothing is deleted and no block is revoked: the file's status becomes ``superseded``,
without a newer version. If all its blocks are acknowledged again, the file is complete. It also
stays complete for other groups that have all of it.
"""

from __future__ import annotations

import threading
import time

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import SettingsError, SourceError
from streamapp.integrity import inventory, superseded
from streamapp.kafka import publish, topic_admin
from streamapp.producer.sources import scan
from streamapp.protocol import messages
from streamapp.protocol.filenames import printable
from streamapp.protocol.routing import partition_of
from streamapp.settings import label_of


if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from streamapp.protocol.messages import BlockAck, FileStatus
    from streamapp.settings import Settings

REASON: Final = "its source no longer has it, and not all of it was persisted"


class GoneFiles:
    """Finds files of *source* that are not *at_source* and not complete in *group*.

    It takes every FileStatus, then every acknowledgement, each in order. Pure.
    """

    def __init__(self, source: str, at_source: Collection[str], *, group: str) -> None:
        self._source, self._at_source, self._group = source, at_source, group
        self._status: dict[str, FileStatus] = {}
        self._blocks: dict[str, set[int]] = {}  # that the group has, by file id

    def take_status(self, file_id: str, status: FileStatus | None) -> None:
        """Take the next status of a file; None deletes it."""
        self._status.pop(file_id, None)
        is_ours = status is not None and status.source == self._source
        if status is not None and is_ours and status.name not in self._at_source:
            self._status[file_id] = status

    def take(self, ack: BlockAck) -> None:
        """Take the next acknowledgement."""
        if ack.group != self._group or ack.outcome == "rejected":
            return
        if ack.file_id not in self._status:
            return
        blocks = self._blocks.setdefault(ack.file_id, set())
        (blocks.add if ack.outcome == "persisted" else blocks.discard)(ack.block)

    def found(self) -> list[FileStatus]:
        """Return the newest status of each, by name, without those already superseded."""
        return sorted(
            (s for s in self._status.values() if s.state != "superseded" and not self._is_whole(s)),
            key=lambda s: s.name,
        )

    def _is_whole(self, status: FileStatus) -> bool:
        return len(self._blocks.get(status.file_id, ())) >= status.blocks


def forget(settings: Settings, *, is_dry_run: bool, write: Callable[[str], None]) -> None:
    """End (or only list) the files of this source that can never be complete.

    Raises:
        SettingsError: no data folder is given.
        SourceError: the data folder cannot be read, or something in it.
        ClusterError: the broker does not answer, or did not take what is to be published.
    """
    if settings.data_folder is None:
        raise SettingsError(f"{label_of('data_folder')}: which folder's files are there still?")
    topic_admin.check(settings)
    names = _names(settings, settings.data_folder)
    gone = GoneFiles(settings.machine_id, names, group=settings.group_id)
    stop = threading.Event()
    superseded.read_status(settings, gone.take_status, stop)
    inventory.read_acks(settings, gone.take, stop)
    found = gone.found()
    if not is_dry_run:
        _publish(settings, found)
    done = "would be forgotten" if is_dry_run else "forgotten"
    for status in found:
        write(f"{done}: {printable(status.name)} (file {status.file_id})")
    if not found:
        write(
            f"No file of {settings.machine_id} is to be forgotten: each is in "
            f"{settings.data_folder}, or group {settings.group_id} has all of it"
        )


def _names(settings: Settings, folder: Path) -> set[str]:
    """Return the names of all files below *folder*.

    Raises:
        SourceError: a folder cannot be read, so its files cannot be known to be gone.
    """
    scan.check_folder(folder)
    names = set()
    for found in scan.scan(
        folder, machine=settings.machine_id, block_size=settings.block_size, links="follow"
    ):
        if isinstance(found, scan.Problem) and not found.is_special:
            raise SourceError(f"{folder}: {printable(found.name)}: {found.reason}")
        names.add(found.name)
    return names


def _publish(settings: Settings, found: list[FileStatus]) -> None:
    name = topic_admin.names(settings).status
    ended = [
        msgspec.structs.replace(
            status,
            state="superseded",
            superseded_by="",
            reason=REASON,
            failed_blocks=(),
            at=time.time(),
        )
        for status in found
    ]
    publish.publish(
        settings, ((name, s.key, messages.encode(s), partition_of(s.key)) for s in ended)
    )
