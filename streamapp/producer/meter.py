"""How fast something grows, over the last half minute. Pure code."""

from __future__ import annotations

from collections import deque
from typing import Final


WINDOW_SECONDS: Final = 30.0
"""Long enough to even out single blocks, short enough to follow a change within a minute."""
LONGEST_SECONDS: Final = 30 * 24 * 3600.0
"""A rate that gives a longer time says nothing: a few bytes came, and then none."""


class Meter:
    """Is told a growing number every second or so."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, value: int) -> None:
        """Note that at *now* (seconds) it is *value*."""
        self._samples.append((now, value))
        while now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """What it grew by in a second."""
        if not self._samples:
            return 0.0
        (since, before), (now, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / (now - since)) if now > since else 0.0

    def seconds_for(self, missing: int) -> float | None:
        """Return how long the *missing* rest takes at this rate; None while nothing much moves."""
        seconds = missing / self.rate if self.rate else LONGEST_SECONDS
        return seconds if seconds < LONGEST_SECONDS else None
