"""Finds blocks of this machine that another machine of the group has, by the acknowledgements.

The newest acknowledgement of a block names the copy that counts. A copy in another folder is a
*second copy*: the group does not need it as long as the other one exists, which the other
machine's heartbeats show.
"""

from __future__ import annotations

import time

from typing import TYPE_CHECKING, Final

from streamapp.integrity import machines


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streamapp.integrity.inventory import Key
    from streamapp.protocol.messages import BlockAck
    from streamapp.settings import Settings
    from streamapp.store.walk import FileFolder

HAS_DISKS: Final = ("running", "holding")
"""States of a machine in which it uses its data folders."""


class Copies:
    """The copies of the blocks in *disks*, the folders of *machine*, by the acknowledgements.

    It takes every acknowledgement of *group*, in order.
    """

    def __init__(self, disks: Iterable[FileFolder], *, group: str, machine: str) -> None:
        self._group, self._machine = group, machine
        self._disks = list(disks)
        self._files = {folder.file.file_id for folder in self._disks}
        self._folders = {folder.folder for folder in self._disks} - {""}
        self._newest: dict[Key, BlockAck] = {}
        self._earlier: dict[Key, dict[str, BlockAck]] = {}

    def take(self, ack: BlockAck) -> None:
        """Take the next acknowledgement."""
        if ack.group != self._group or ack.file_id not in self._files:
            return
        key = ack.file_id, ack.block
        if ack.outcome == "persisted":
            self._newest[key] = ack
            self._earlier.setdefault(key, {})[ack.machine] = ack
        elif ack.outcome == "lost":
            self._newest.pop(key, None)
            self._earlier.get(key, {}).pop(ack.machine, None)

    def newest(self, key: Key) -> BlockAck | None:
        """Return the newest acknowledgement of a block; None where it was revoked."""
        return self._newest.get(key)

    def elsewhere(self, key: Key) -> BlockAck | None:
        """Return the newest acknowledgement of a block if it names another machine's folder.

        A folder that is here now does not count as another machine's, whoever had it before.
        """
        ack = self._newest.get(key)
        if ack is None or self.is_here(ack) or ack.folder in self._folders:
            return None
        return ack

    def is_here(self, ack: BlockAck) -> bool:
        """Return whether *ack* places its block on this machine."""
        return ack.machine == self._machine

    def second(self) -> Iterator[tuple[FileFolder, int, BlockAck]]:
        """Yield the second copies here: folder, number, acknowledgement of the first copy."""
        for folder, block in self._blocks():
            if ack := self.elsewhere((folder.file.file_id, block)):
                yield folder, block, ack

    def earlier(self) -> Iterator[tuple[FileFolder, int, BlockAck]]:
        """Yield blocks of this machine that another machine acknowledged before."""
        for folder, block in self._blocks():
            key = folder.file.file_id, block
            ack = self._newest.get(key)
            if ack is None or not self.is_here(ack):
                continue
            for machine, other in self._earlier[key].items():
                if machine != self._machine and other.folder not in self._folders:
                    yield folder, block, other

    def _blocks(self) -> Iterator[tuple[FileFolder, int]]:
        for folder in self._disks:
            yield from ((folder, block) for block in sorted(folder.blocks))


class FolderPresence:
    """Finds whether other machines are up with a data folder, by new heartbeats."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._fresh_seconds = machines.BEATS * settings.heartbeat
        self._seen: dict[str, tuple[float, frozenset[str]]] = {}

    def fault(self, ack: BlockAck) -> str:
        """Return why the copy of *ack* cannot be relied on; empty if it can.

        It waits for the machine's next heartbeat, unless one has just arrived.

        Raises:
            ClusterError: the heartbeats cannot be read.
        """
        if not ack.folder:
            return f"{ack.machine} did not say in which data folder it has it"
        at, folders = self._seen.get(ack.machine, (0.0, frozenset()))
        if ack.machine not in self._seen or self._clock() - at >= self._fresh_seconds:
            folders = self._folders_of(ack.machine)
            self._seen[ack.machine] = self._clock(), folders
        if not folders:
            return f"no heartbeat of {ack.machine} came that says which data folders it has"
        if ack.folder not in folders:
            return f"{ack.machine} does not have the data folder {ack.folder} now"
        return ""

    def _folders_of(self, machine: str) -> frozenset[str]:
        watch = machines.MachineWatch(self._settings, machine)
        try:
            newest = watch.read()
            if newest is None or newest.state not in HAS_DISKS or not watch.is_up():
                return frozenset()
            newest = watch.newest
            is_there = newest is not None and newest.state in HAS_DISKS
            return frozenset(newest.folders) if newest and is_there else frozenset()
        finally:
            watch.close()
