"""What an intake has begun, and does not know the end of yet."""

from __future__ import annotations

import asyncio
import time

from typing import TYPE_CHECKING, Final

from streamapp.units import KIB


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.assembly import Assembly
    from streamapp.claims import Claim
    from streamapp.store.metadata import BlockFile
    from streamapp.store.writer import BlockWriter
    from streamapp.wire import BlockMeta


AGE_TIMEOUTS: Final = 10
"""How many block timeouts an attempt may take, however slowly it comes."""

SLOWEST_BYTES: Final = 32 * KIB
"""Bytes a second at which an attempt must come that takes longer: 256 kbit/s."""


class Pending:
    """Frames that came of one attempt, while nobody knows what will become of it."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.came = 0
        self.began = self.last_seen = time.monotonic()
        self._last_frame = -1
        self._wanted: int | None = None
        self._wanted_of_age: int | None = None

    def note(self, frame: int, size: int) -> None:
        """Note *size* bytes of frame number *frame*; one that is not new keeps nothing open."""
        if frame > self._last_frame:
            self._last_frame = frame
            self.came += size
            self.touch()

    def touch(self) -> None:
        """Note that nothing is late now."""
        self.last_seen = time.monotonic()
        self._wanted = None

    def excuse(self, seconds: float) -> None:
        """Note that nothing could come for *seconds*, until now."""
        self.began += seconds
        self.touch()

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

    def is_too_slow(self, *, patience: float, highwater: int, read: int) -> bool:
        """Return whether the attempt takes too long for what came of it.

        Whoever sends a byte now and then would keep it open for ever. The reading may be what
        is slow: so, as above, all there was when it was found too slow must be read.
        """
        age = time.monotonic() - self.began
        if age <= AGE_TIMEOUTS * patience + self.came / SLOWEST_BYTES:
            self._wanted_of_age = None
            return False
        if self._wanted_of_age is None:
            self._wanted_of_age = highwater
        return read >= self._wanted_of_age


class OpenBlock(Pending):
    """One attempt at a block that is being written."""

    def __init__(self, assembly: Assembly, writer: BlockWriter) -> None:
        super().__init__()
        self.assembly = assembly
        self.writer = writer
        self.must_yield = False


class Repeat(Pending):
    """One attempt at a block that is stored already; it is looked at again when it ends."""

    def __init__(self, stored: BlockFile) -> None:
        super().__init__()
        self.stored = stored


class Elsewhere(Pending):
    """One attempt at a block that another machine of the group has, by *claim*."""

    def __init__(self, claim: Claim, meta: BlockMeta) -> None:
        super().__init__()
        self.claim = claim
        self.meta = meta


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
