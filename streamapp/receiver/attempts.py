"""The attempts at blocks of one partition: in which phase each one is, and when it is late.

======== ============================================================= ========================
phase    meaning                                                       may become
======== ============================================================= ========================
Orphaned frames came, and the first one, which describes the block,    Writing, Repeated,
         did not                                                       Elsewhere, Ending, Closed
Writing  the block is written to disk                                  Ending, Closed
Repeated the block lay on this machine's disk before its first frame   Ending, Closed
         came
Elsewhere another machine of the group has the block                   Ending, Closed
Ending   its outcome is on the way to Kafka                            Closed
Closed   its outcome is known: frames that still come are done at once -
======== ============================================================= ========================

An attempt of which nothing came yet may begin in any phase. One whose block is persisted and
acknowledged is removed: when its frames come again, the disk tells what they are of.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses

from typing import TYPE_CHECKING, Final

from streamapp.units import KIB


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.protocol.frames import BlockMeta
    from streamapp.receiver.assembly import Assembly
    from streamapp.receiver.context import AttemptId, BlockId, Claim
    from streamapp.store.metadata import BlockMetadata
    from streamapp.store.writer import BlockWriter


AGE_TIMEOUTS: Final = 10
"""How many block timeouts an attempt may take, however slowly it comes."""

SLOWEST_BYTES: Final = 32 * KIB
"""Bytes a second at which an attempt must come that takes longer: 256 kbit/s."""


class Orphaned:
    """Frames came, and the first one did not: it may have been read before a restart."""


@dataclasses.dataclass
class Writing:
    """The block is written; *must_yield*: another block needs its room."""

    assembly: Assembly
    writer: BlockWriter
    must_yield: bool = False


@dataclasses.dataclass
class Repeated:
    """The block is *stored* here already; it is read again when the attempt ends."""

    stored: BlockMetadata


@dataclasses.dataclass
class Elsewhere:
    """Another machine of the group has the block, by *claim*."""

    claim: Claim
    meta: BlockMeta


class Ending:
    """The outcome is on the way to Kafka."""


class Closed:
    """The outcome is known; what still comes is done at once."""


Phase = Orphaned | Writing | Repeated | Elsewhere | Ending | Closed

_NEXT: Final[dict[type[Phase], tuple[type[Phase], ...]]] = {
    Orphaned: (Writing, Repeated, Elsewhere, Ending, Closed),
    Writing: (Ending, Closed),
    Repeated: (Ending, Closed),
    Elsewhere: (Ending, Closed),
    Ending: (Closed,),
    Closed: (),
}


class Attempt:
    """What came of one attempt, and when. *now* is the clock's, in seconds."""

    def __init__(self, attempt_id: AttemptId, phase: Phase, *, now: float) -> None:
        self.id = attempt_id
        self.phase = phase
        self.offsets: list[int] = []
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin to count and to wait anew."""
        self.came = 0
        self.began = self.last_seen = now
        self._last_frame = -1
        self._wanted: int | None = None
        self._wanted_of_age: int | None = None

    def note(self, frame: int, size: int, *, now: float) -> None:
        """Note *size* bytes of frame number *frame*; one that is not new keeps nothing open."""
        if frame > self._last_frame:
            self._last_frame = frame
            self.came += size
            self._touch(now)

    def excuse(self, seconds: float, *, now: float) -> None:
        """Note that nothing could come for *seconds*, until now."""
        self.began += seconds
        self._touch(now)

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

    def is_too_slow(self, *, now: float, patience: float, highwater: int, read: int) -> bool:
        """Return whether the attempt takes too long for what came of it.

        Whoever sends a byte now and then would keep it open for ever. The reading may be what
        is slow: so, as above, all there was when it was found too slow must be read.
        """
        if now - self.began <= AGE_TIMEOUTS * patience + self.came / SLOWEST_BYTES:
            self._wanted_of_age = None
            return False
        if self._wanted_of_age is None:
            self._wanted_of_age = highwater
        return read >= self._wanted_of_age

    def _touch(self, now: float) -> None:
        self.last_seen = now
        self._wanted = None


class Attempts:
    """All attempts of one partition, by id, each in one phase."""

    def __init__(self) -> None:
        self._attempts: dict[AttemptId, Attempt] = {}
        self._counts: collections.Counter[type[Phase]] = collections.Counter()

    def get(self, attempt_id: AttemptId) -> Attempt | None:
        """Return the attempt; None when nothing of it is known."""
        return self._attempts.get(attempt_id)

    def move(self, attempt_id: AttemptId, phase: Phase, *, now: float) -> Attempt:
        """Let an attempt, new or known, enter *phase*; return it.

        It counts and waits anew: what came while nobody knew its block says nothing.
        """
        attempt = self._attempts.pop(attempt_id, None)
        if attempt is None:
            attempt = Attempt(attempt_id, phase, now=now)
        else:
            before = type(attempt.phase)
            if type(phase) not in _NEXT[before]:
                message = f"{attempt_id}: {before.__name__} cannot become {type(phase).__name__}"
                raise AssertionError(message)
            self._counts[before] -= 1
            attempt.phase = phase
            attempt.restart(now)
        self._attempts[attempt_id] = attempt  # last: those of one phase are in order
        self._counts[type(phase)] += 1
        return attempt

    def remove(self, attempt: Attempt) -> None:
        """Forget *attempt*."""
        del self._attempts[attempt.id]
        self._counts[type(attempt.phase)] -= 1
        attempt.phase = Closed()

    def clear(self) -> None:
        """Forget all."""
        self._attempts.clear()
        self._counts.clear()

    def count(self, phase: type[Phase]) -> int:
        """Return how many are in *phase*."""
        return self._counts[phase]

    def within(self, *phases: type[Phase]) -> list[Attempt]:
        """Return those that are in one of *phases*, in the order in which they came to it."""
        return [a for a in self._attempts.values() if isinstance(a.phase, phases)]

    def of_block(self, block_id: BlockId) -> list[Attempt]:
        """Return the attempts at a block that are not closed."""
        return [
            attempt
            for attempt in self._attempts.values()
            if attempt.id.block_id == block_id and not isinstance(attempt.phase, Closed)
        ]


class PendingWriter:
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
