"""Which block a reader sends next: one that rested long enough, else the next of the files.

Pure code. Two readers never send to one partition at once, because the worker at its other
end would have to hold both blocks open; so a block is sought among the next few whose
partition is free.
"""

from __future__ import annotations

import heapq
import itertools

from collections import deque
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from streamapp.producer.model import Block

LOOK_AHEAD: Final = 32
MAX_BACKOFF_SECONDS: Final = 60.0


class SendQueue:
    """Blocks to send; *fresh* ones are planned when they are needed.

    It may return blocks that nobody wants any more: that is for the caller to see.
    """

    def __init__(self, fresh: Iterator[Block]) -> None:
        self._fresh = deque([fresh])
        self._ahead: deque[Block] = deque()
        self._resting: list[tuple[float, int, Block]] = []
        self._order = itertools.count()

    def extend(self, fresh: Iterator[Block]) -> None:
        """Send *fresh* blocks as well, after all others."""
        self._fresh.append(fresh)

    def rest(self, block: Block, due: float) -> None:
        """Keep *block* until *due*."""
        heapq.heappush(self._resting, (due, next(self._order), block))

    def take(self, now: float, busy: Container[int], *, with_fresh: bool) -> Block | None:
        """Return the next block on none of the *busy* partitions; None: not now."""
        block = self._take_resting(now, busy)
        return self._take_fresh(busy) if block is None and with_fresh else block

    def _take_resting(self, now: float, busy: Container[int]) -> Block | None:
        passed: list[tuple[float, int, Block]] = []
        found = None
        while self._resting and self._resting[0][0] <= now and len(passed) < LOOK_AHEAD:
            entry = heapq.heappop(self._resting)
            if entry[2].partition not in busy:
                found = entry[2]
                break
            passed.append(entry)
        for entry in passed:
            heapq.heappush(self._resting, entry)
        return found

    def _take_fresh(self, busy: Container[int]) -> Block | None:
        while self._fresh and (room := LOOK_AHEAD - len(self._ahead)):
            before = len(self._ahead)
            self._ahead.extend(itertools.islice(self._fresh[0], room))
            if len(self._ahead) - before < room:
                self._fresh.popleft()
        for place, block in enumerate(self._ahead):
            if block.partition not in busy:
                del self._ahead[place]
                return block
        return None


def backoff(tries: int, base: float, chance: float) -> float:
    """Return the seconds to rest after *tries* attempts: doubled each time, half of it by chance.

    *chance* is in [0, 1); it keeps producers from all coming back at the same moment.
    """
    longest = min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(tries - 1, 32))
    return longest * (0.5 + 0.5 * chance)
