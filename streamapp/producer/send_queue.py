"""Decides which block a reader sends next: a scheduled one that is due, or else a fresh one.

Pure code. Two readers never send to one partition at once, because the worker would have to
assemble both blocks at once. So the queue looks at the next few blocks for a free partition.
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
"""Blocks that are searched for one of a free partition."""

MAX_BACKOFF_SECONDS: Final = 60.0


class SendQueue:
    """Blocks to send. `take` may return a block that is obsolete; the caller checks that.

    *fresh* yields the blocks that no reader has taken before. It is read as they are needed.
    """

    def __init__(self, fresh: Iterator[Block]) -> None:
        self._fresh = deque([fresh])
        self._ahead: deque[Block] = deque()
        self._scheduled: list[tuple[float, int, Block]] = []
        self._order = itertools.count()

    def extend(self, fresh: Iterator[Block]) -> None:
        """Add *fresh* blocks after all others."""
        self._fresh.append(fresh)

    def schedule(self, block: Block, due: float) -> None:
        """Let `take` return *block* from *due* on (seconds, monotonic)."""
        heapq.heappush(self._scheduled, (due, next(self._order), block))

    def take(self, now: float, busy: Container[int], *, with_fresh: bool) -> Block | None:
        """Return the next block on none of the *busy* partitions; None: not now."""
        block = self._take_scheduled(now, busy)
        if block is None and with_fresh:
            block = self._take_fresh(busy)
        return block

    def _take_scheduled(self, now: float, busy: Container[int]) -> Block | None:
        passed: list[tuple[float, int, Block]] = []
        found = None
        while self._scheduled and self._scheduled[0][0] <= now and len(passed) < LOOK_AHEAD:
            entry = heapq.heappop(self._scheduled)
            if entry[2].partition not in busy:
                found = entry[2]
                break
            passed.append(entry)
        for entry in passed:
            heapq.heappush(self._scheduled, entry)
        return found

    def _take_fresh(self, busy: Container[int]) -> Block | None:
        while self._fresh and (room := LOOK_AHEAD - len(self._ahead)):
            before = len(self._ahead)
            self._ahead.extend(itertools.islice(self._fresh[0], room))
            if len(self._ahead) - before < room:
                self._fresh.popleft()
        for index, block in enumerate(self._ahead):
            if block.partition not in busy:
                del self._ahead[index]
                return block
        return None


def backoff(tries: int, base: float, chance: float) -> float:
    """Return the seconds to wait after *tries* attempts: doubled each time, half of it random.

    *chance* in [0, 1) keeps producers from retrying at the same moment.
    """
    longest = min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(tries - 1, 32))
    return longest * (0.5 + 0.5 * chance)
