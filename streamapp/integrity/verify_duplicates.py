"""Implements `streamapp verify --duplicates`: lists second copies; ``--free`` deletes them.

Without ``--free`` it only reads, also beside a running worker. With it, a copy is deleted only
while its data folder is locked, the newest acknowledgement names another machine's folder and the
same content, and that machine reports that it has the folder.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

import msgspec

from streamapp.integrity import inventory
from streamapp.integrity.duplicates import Copies, FolderPresence
from streamapp.integrity.free import Freeing
from streamapp.integrity.line_writer import line_writer
from streamapp.kafka import publish, topic_admin
from streamapp.protocol.filenames import printable
from streamapp.store import BlockStore, walk
from streamapp.units import counted, format_size


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable
    from pathlib import Path

    from streamapp.protocol.messages import BlockAck
    from streamapp.settings import Settings
    from streamapp.store.walk import FileFolder

EXIT_FOUND: Final = 1
EXIT_STOPPED: Final = 130

SECOND: Final = "second copy"
FREED: Final = "freed"
KEPT: Final = "not freed"
EARLIER: Final = "acknowledged by another machine before"


class Duplicate(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="duplicate"):
    """A block on this machine that *other* has, or had; *reason* is why it is not freed."""

    state: str
    machine: str
    file_id: str
    block: int
    name: str
    size: int
    other: str
    reason: str = ""

    def line(self) -> str:
        """Return the text output."""
        text = (
            f"{self.state}: {printable(self.name)}, block {self.block} (file {self.file_id}), "
            f"{format_size(self.size)}, also on {self.other}"
        )
        return f"{text}: {self.reason}" if self.reason else text


class Summary(msgspec.Struct, kw_only=True, tag_field="kind", tag="summary"):
    """The numbers of second copies found and freed, with their bytes."""

    second: int = 0
    second_bytes: int = 0
    freed: int = 0
    freed_bytes: int = 0
    earlier: int = 0
    revoked: int = 0
    is_whole: bool = True

    def line(self) -> str:
        """Return the text output."""
        text = "No block here is a second copy of another machine's"
        if self.second:
            copies = "second copy" if self.second == 1 else "second copies"
            text = f"{self.second} {copies}, {format_size(self.second_bytes)}"
        if self.freed:
            text += f"; {self.freed} freed, {format_size(self.freed_bytes)}"
        if self.earlier:
            text += f"; {counted(self.earlier, 'block')} acknowledged by another machine before"
        if self.revoked:
            text += (
                f"; {counted(self.revoked, 'block')} published as lost, because the newest "
                "acknowledgement changed meanwhile: the producer's next run sends them"
            )
        return text if self.is_whole else f"{text}; stopped before the end"


def run(  # noqa: PLR0913 - the flags of the mode
    settings: Settings,
    machines: dict[str, list[Path]],
    *,
    with_free: bool,
    with_earlier: bool,
    as_json: bool,
    stop: threading.Event,
    stream: IO[str] | None = None,
) -> int:
    """List (and free) the second copies in the folders of *machines*; return 0 if there are none.

    Raises:
        StoreError: something could not be read, or a worker has the folder (*with_free*).
        ClusterError: the broker does not answer.
    """
    topic_admin.check(settings)
    write = line_writer(as_json=as_json, stream=stream)

    work = _Work(settings, write, stop)
    for machine, roots in machines.items():
        if with_free:
            work.free(machine, roots)
        else:
            work.show(machine, roots)
        if with_earlier:
            work.show_earlier(machine, roots)
    summary = work.summary
    summary.is_whole = not stop.is_set()
    write(summary)
    if summary.second or summary.earlier:
        return EXIT_FOUND
    return 0 if summary.is_whole else EXIT_STOPPED


class _Work:
    """Handles one machine after the other, and counts the copies."""

    def __init__(
        self,
        settings: Settings,
        write: Callable[[Duplicate | Summary], None],
        stop: threading.Event,
    ) -> None:
        self._settings, self._write, self._stop = settings, write, stop
        self.summary = Summary()

    def show(self, machine: str, roots: list[Path]) -> None:
        """List the second copies in *roots*."""
        for found in self._read(machine, roots).second():
            self._note(SECOND, machine, *found)

    def show_earlier(self, machine: str, roots: list[Path]) -> None:
        """List the blocks that another machine acknowledged before this one."""
        for found in self._read(machine, roots).earlier():
            self._note(EARLIER, machine, *found)

    def free(self, machine: str, roots: list[Path]) -> None:
        """Delete the second copies in *roots* where that is safe; list all of them."""
        store = BlockStore(roots, min_free=0)
        store.open()
        try:
            copies = self._copies(machine, [root.path for root in store.roots])
            with inventory.followed_acks(self._settings, copies.take, self._stop) as catch_up:
                presence = FolderPresence(self._settings)
                freeing = Freeing(store, copies, presence, catch_up, self._stop)
                for folder, block, ack in list(copies.second()):
                    if self._stop.is_set():
                        break
                    reason = freeing.free(folder, block)
                    self._note(KEPT if reason else FREED, machine, folder, block, ack, reason)
                lost = freeing.wrongly_freed()
            if lost:
                self.summary.revoked += publish.publish_acks(self._settings, lost)
        finally:
            store.close()

    def _copies(self, machine: str, roots: list[Path]) -> Copies:
        disks = walk.files_in(roots)
        return Copies(disks, group=self._settings.group_id, machine=machine)

    def _read(self, machine: str, roots: list[Path]) -> Copies:
        """Return the copies by all acknowledgements; none if stopped before they were read."""
        copies = self._copies(machine, roots)
        inventory.read_acks(self._settings, copies.take, self._stop)
        return self._copies(machine, []) if self._stop.is_set() else copies

    def _note(  # noqa: PLR0913, PLR0917 - the fields of a copy
        self,
        state: str,
        machine: str,
        folder: FileFolder,
        block: int,
        ack: BlockAck,
        reason: str = "",
    ) -> None:
        file, size, summary = folder.file, folder.file.size_of(block), self.summary
        if state == EARLIER:
            summary.earlier += 1
        else:
            summary.second += 1
            summary.second_bytes += size
        if state == FREED:
            summary.freed += 1
            summary.freed_bytes += size
        self._write(
            Duplicate(
                state=state,
                machine=machine,
                file_id=file.file_id,
                block=block,
                name=file.name,
                size=size,
                other=ack.machine,
                reason=reason,
            )
        )
