"""Implements `streamapp versions free`: deletes blocks of superseded versions on this machine.

For each file, the data folder is locked, the group has all of the current version, and Kafka has
the records that revoke the earlier version's blocks; then those are deleted. Blocks that a killed
process revoked and did not delete are deleted by the next run, or acknowledged again by the next
start of the worker.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

import msgspec

from streamapp.integrity import inventory, superseded
from streamapp.integrity.line_writer import line_writer
from streamapp.integrity.superseded import Versions
from streamapp.kafka import publish, topic_admin
from streamapp.protocol.filenames import printable
from streamapp.store import BlockStore, walk
from streamapp.units import counted, format_size


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable
    from pathlib import Path

    from streamapp.integrity.superseded import Superseded
    from streamapp.settings import Settings

EXIT_STOPPED: Final = 130

FREED: Final = "freed"
WOULD_FREE: Final = "would be freed"
KEPT: Final = "not freed"
INCOMPLETE: Final = "the group does not have all of the current version"
CHANGED: Final = "another version was called the current one meanwhile: run it again"


class SupersededVersion(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="version"):
    """A superseded version of a file on this machine; *reason* is why it is not freed."""

    state: str
    machine: str
    file_id: str
    name: str
    superseded_by: str
    blocks: int
    bytes: int
    reason: str = ""

    def line(self) -> str:
        """Return the text output."""
        text = (
            f"{self.state}: {printable(self.name)} (file {self.file_id}, superseded by "
            f"{self.superseded_by}), {counted(self.blocks, 'block')}, {format_size(self.bytes)}"
        )
        return f"{text}: {self.reason}" if self.reason else text


class Summary(msgspec.Struct, kw_only=True, tag_field="kind", tag="summary"):
    """The numbers of superseded versions, and of those that were or would be freed."""

    versions: int = 0
    freed: int = 0
    freed_bytes: int = 0
    is_dry_run: bool = False
    is_whole: bool = True

    def line(self) -> str:
        """Return the text output."""
        text = "No superseded version lies here"
        if self.versions:
            verb = "would be freed" if self.is_dry_run else "freed"
            text = (
                f"{counted(self.versions, 'superseded version')}; {self.freed} {verb}, "
                f"{format_size(self.freed_bytes)}"
            )
        return text if self.is_whole else f"{text}; stopped before the end"


def free(  # noqa: PLR0913 - the flags of the command
    settings: Settings,
    machines: dict[str, list[Path]],
    *,
    is_dry_run: bool,
    as_json: bool,
    stop: threading.Event,
    stream: IO[str] | None = None,
) -> int:
    """Delete (or only list) superseded versions in the folders of *machines*; return 0.

    It returns 130 when *stop* was set before the end.

    Raises:
        StoreError: a folder cannot be read or written, or a worker has it.
        ClusterError: the broker does not answer, or the records could not be published.
    """
    topic_admin.check(settings)
    write = line_writer(as_json=as_json, stream=stream)

    summary = Summary(is_dry_run=is_dry_run)
    for machine, roots in machines.items():
        store = BlockStore(roots, min_free=0)
        if not is_dry_run:
            store.open()
        try:
            work = _Work(settings, store, machine, summary, write, is_dry_run=is_dry_run)
            work.carry_out(stop)
        finally:
            store.close()
    summary.is_whole = not stop.is_set()
    write(summary)
    return 0 if summary.is_whole else EXIT_STOPPED


class _Work:
    """Deletes (or only lists) superseded versions in the folders *store* of *machine*."""

    def __init__(  # noqa: PLR0913 - the folders, and the output
        self,
        settings: Settings,
        store: BlockStore,
        machine: str,
        summary: Summary,
        write: Callable[[SupersededVersion | Summary], None],
        *,
        is_dry_run: bool,
    ) -> None:
        self._settings, self._store, self._machine = settings, store, machine
        self._summary, self._write = summary, write
        self._is_dry_run = is_dry_run

    def carry_out(self, stop: threading.Event) -> None:
        """Handle one version after the other, until *stop*.

        Raises:
            StoreError: a folder cannot be read or written.
            ClusterError: the topics cannot be read, or the records not be published.
        """
        roots = [root.path for root in self._store.roots]
        disks = walk.files_in(roots)
        found = Versions(disks, group=self._settings.group_id)
        following = superseded.followed_status(self._settings, found.take_status, stop)
        with following as catch_up_status:
            found.begin()
            with inventory.followed_acks(self._settings, found.take, stop) as catch_up:
                for version in found.superseded():
                    # The status is last: a version becomes current again only when complete.
                    catch_up(stop)
                    catch_up_status(stop)
                    if stop.is_set():  # not all records were read
                        break
                    reason = _why_kept(found, version)
                    if not (reason or self._is_dry_run):
                        _free(self._settings, self._store, found, version, self._machine)
                    _note(self._summary, self._write, version, self._machine, reason=reason)


def _why_kept(found: Versions, version: Superseded) -> str:
    """Return why *version* may not be deleted; empty if it may."""
    if not found.is_still(version):
        return CHANGED
    return "" if found.may_go(version) else INCOMPLETE


def _free(
    settings: Settings, store: BlockStore, found: Versions, version: Superseded, machine: str
) -> None:
    """Revoke the blocks of *version* on *machine*, and delete them when that is published."""
    reason = f"freed: superseded by {version.by}"
    lost = [inventory.as_lost(ack, reason) for ack in found.acknowledged(version, machine)]
    if lost:
        publish.publish_acks(settings, lost)
    roots = {root.path: root for root in store.roots}
    for folder in version.folders:
        for block in sorted(folder.blocks):
            roots[folder.root].discard(folder.parts, folder.file, block)


def _note(
    summary: Summary,
    write: Callable[[SupersededVersion | Summary], None],
    version: Superseded,
    machine: str,
    *,
    reason: str,
) -> None:
    file = version.file
    size = sum(file.size_of(block) for folder in version.folders for block in folder.blocks)
    summary.versions += 1
    summary.freed += not reason
    summary.freed_bytes += 0 if reason else size
    done = WOULD_FREE if summary.is_dry_run else FREED
    write(
        SupersededVersion(
            state=KEPT if reason else done,
            machine=machine,
            file_id=file.file_id,
            name=file.name,
            superseded_by=version.by,
            blocks=len(version.blocks),
            bytes=size,
            reason=reason,
        )
    )
