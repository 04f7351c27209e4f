"""The attempts at blocks of one partition, and the phase of each one.

========= ============================================================ ========================
phase     meaning                                                      may become
========= ============================================================ ========================
Orphaned  frames came without the first one, which describes the block Writing, Repeated,
                                                                       Elsewhere, Ending, Closed
Writing   the block is written to disk                                 Ending, Closed
Repeated  this machine had persisted the block before the first frame  Ending, Closed
          of this attempt came
Elsewhere another machine of the group has persisted the block         Ending, Closed
Ending    the outcome is being published                               Closed
Closed    the attempt has ended: its later frames are settled at once  -
========= ============================================================ ========================

A new attempt begins in any phase but Closed. An attempt is removed when its block is persisted and
acknowledged: if its frames are delivered again, the block on disk shows that they are repeated.
"""

from __future__ import annotations

import collections
import dataclasses

from typing import TYPE_CHECKING, Final

from streamapp.receiver.lateness import Progress


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.protocol.frames import BlockMeta
    from streamapp.receiver.assembly import Assembly
    from streamapp.receiver.context import AttemptId, BlockId, Claim
    from streamapp.store.metadata import BlockMetadata
    from streamapp.store.writer import BlockWriter

MAX_ATTEMPTS: Final = 1024
"""Attempts that are remembered in each of the other phases than Writing: an unknown producer can
invent any number."""


class Orphaned:
    """Frames came without the first one, which may have been read before a restart."""


@dataclasses.dataclass
class Writing:
    """The block is written; *must_yield*: another block needs its disk space."""

    assembly: Assembly
    writer: BlockWriter
    must_yield: bool = False


@dataclasses.dataclass
class Repeated:
    """The block is *stored* on this machine; it is looked up again when the attempt ends."""

    stored: BlockMetadata


@dataclasses.dataclass
class Elsewhere:
    """Another machine of the group has the block, by *claim*."""

    claim: Claim
    meta: BlockMeta


class Ending:
    """The outcome is being published."""


class Closed:
    """The attempt has ended; its later frames are settled at once.

    Its outcome is published, unless its producer aborted it or its first frame was missing.
    """


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
    """One attempt: its phase, its progress, and the offsets that are not settled yet."""

    def __init__(self, attempt_id: AttemptId, phase: Phase, progress: Progress) -> None:
        self.id = attempt_id
        self.phase = phase
        self.progress = progress
        self.offsets: list[int] = []


class Attempts:
    """All attempts of one partition, by id. *clock* returns seconds that only increase."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._attempts: dict[AttemptId, Attempt] = {}
        self._counts: collections.Counter[type[Phase]] = collections.Counter()

    def get(self, attempt_id: AttemptId) -> Attempt | None:
        """Return the attempt; None when it is unknown."""
        return self._attempts.get(attempt_id)

    def move(self, attempt_id: AttemptId, phase: Phase) -> Attempt:
        """Let an attempt, new or known, enter *phase*; return it.

        Its progress starts from zero: what was received in an earlier phase does not count.
        """
        progress = Progress(self._clock())
        attempt = self._attempts.pop(attempt_id, None)
        if attempt is None:
            attempt = Attempt(attempt_id, phase, progress)
        else:
            before = type(attempt.phase)
            if type(phase) not in _NEXT[before]:
                message = f"{attempt_id}: {before.__name__} cannot become {type(phase).__name__}"
                raise AssertionError(message)
            self._counts[before] -= 1
            attempt.phase = phase
            attempt.progress = progress
        self._attempts[attempt_id] = attempt  # as the last one: `within` returns them in order
        self._counts[type(phase)] += 1
        return attempt

    def remove(self, attempt: Attempt) -> None:
        """Forget *attempt*."""
        del self._attempts[attempt.id]
        self._counts[type(attempt.phase)] -= 1
        attempt.phase = Closed()

    def clear(self) -> None:
        """Forget all attempts."""
        self._attempts.clear()
        self._counts.clear()

    def count(self, phase: type[Phase]) -> int:
        """Return how many attempts are in *phase*."""
        return self._counts[phase]

    def surplus(self, phase: type[Phase]) -> Attempt | None:
        """Return the oldest attempt in *phase* if there are too many; None otherwise."""
        if self.count(phase) <= MAX_ATTEMPTS:
            return None
        return self.within(phase)[0]

    def within(self, *phases: type[Phase]) -> list[Attempt]:
        """Return the attempts in one of *phases*, in the order in which they entered it."""
        return [a for a in self._attempts.values() if isinstance(a.phase, phases)]

    def of_block(self, block_id: BlockId) -> list[Attempt]:
        """Return the attempts at a block that are not closed."""
        return [
            attempt
            for attempt in self._attempts.values()
            if attempt.id.block_id == block_id and not isinstance(attempt.phase, Closed)
        ]

    def idle(self, *, since: float) -> list[Attempt]:
        """Return the attempts in Writing that received no new frame since *since*."""
        return [a for a in self.within(Writing) if a.progress.last_seen < since]

    def first_to_yield(self, *, idle_since: float) -> Attempt:
        """Return the attempt in Writing that another block may replace.

        An attempt without frames since *idle_since* is idle. The one that is idle for longest is
        returned. If none is idle, many blocks were begun at once: then the one with the fewest
        bytes is returned, so that many new blocks do not end one that is nearly complete.
        """
        if idle := self.idle(since=idle_since):
            return min(idle, key=lambda attempt: attempt.progress.last_seen)
        return min(
            self.within(Writing),
            key=lambda attempt: (attempt.progress.received_bytes, attempt.progress.last_seen),
        )
