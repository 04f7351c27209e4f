"""What an intake has begun, and does not know the end of yet."""

from __future__ import annotations

import asyncio
import time

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.assembly import Assembly
    from streamapp.store.metadata import BlockFile
    from streamapp.store.writer import BlockWriter


class Pending:
    """Frames that came of one attempt, while nobody knows what will become of it."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.touch()

    def touch(self) -> None:
        """Note that a frame came just now."""
        self.last_seen = time.monotonic()
        self._wanted: int | None = None

    def is_overdue(self, *, since: float, highwater: int, read: int) -> bool:
        """Return whether no frame came since *since*, though all there was by now is read.

        *highwater* is where the partition ends now, *read* how far it was read. The first time
        that a frame is late, where the partition ends then is how far must be read: the frame
        may be there already. What is not, its producer did not send for as long.
        """
        if self.last_seen >= since:
            return False
        if self._wanted is None:
            self._wanted = highwater
        return read >= self._wanted


class OpenBlock(Pending):
    """One attempt at a block that is being written."""

    def __init__(self, assembly: Assembly, writer: BlockWriter) -> None:
        super().__init__()
        self.assembly = assembly
        self.writer = writer


class Repeat(Pending):
    """One attempt at a block that is stored already; it is looked at again when it ends."""

    def __init__(self, stored: BlockFile) -> None:
        super().__init__()
        self.stored = stored


class Beginning:
    """A writer that is made in a thread, and thrown away if nobody waits for it any more."""

    def __init__(self, make: Callable[[], BlockWriter]) -> None:
        self._make = make
        self._made: BlockWriter | None = None
        self._is_given_up = False

    def make(self) -> BlockWriter:
        """Return the writer."""
        self._made = self._make()
        if self._is_given_up:
            self._made.abort()
        return self._made

    def give_up(self) -> None:
        """Throw the writer away, now or when it is made."""
        self._is_given_up = True
        if self._made is not None:
            in_a_thread(self._made.abort)


def in_a_thread(abort: Callable[[], None]) -> None:
    """Let a writer that may be syncing, and holds its lock meanwhile, not stop the event loop."""
    asyncio.get_running_loop().run_in_executor(None, abort)
