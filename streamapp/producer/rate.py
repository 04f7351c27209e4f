"""How fast something grows, over the last half minute, and how long the rest takes. Pure code."""

from __future__ import annotations

from collections import deque
from typing import Final


WINDOW_SECONDS: Final = 30.0
"""Long enough to even out single blocks, short enough to follow a change within a minute."""
SHORTEST_SECONDS: Final = 1.0
"""What came within less time is a burst, and no rate: it counts for as long as this."""
SETTLED_SECONDS: Final = 5.0
"""How long something is watched before the time for the rest is told: small files come first,
and the first seconds told 16 minutes for half a minute."""
LONGEST_SECONDS: Final = 30 * 24 * 3600.0
"""A rate that gives a longer time says nothing: a few bytes came, and then none."""


class RateMeter:
    """Is told a growing number every second or so."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, value: int) -> None:
        """Note that at *now* (seconds) it is *value*; as long as that is the same, nothing came."""
        if self._samples and self._samples[0][1] == value:  # it waited, or everything waited for it
            self._samples.clear()
        self._samples.append((now, value))
        while now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """What it grew by in a second."""
        if not self._samples:
            return 0.0
        (since, before), (now, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / max(now - since, SHORTEST_SECONDS))

    def seconds_for(self, missing: int) -> float | None:
        """Return how long the *missing* rest takes at this rate; None while that is not known.

        It is not while nothing much moves, nor in the first seconds.
        """
        is_settled = self._samples and self._samples[-1][0] - self._samples[0][0] >= SETTLED_SECONDS
        seconds = missing / self.rate if self.rate and is_settled else LONGEST_SECONDS
        return seconds if seconds < LONGEST_SECONDS else None


def time_left(
    of_bytes: RateMeter, of_files: RateMeter, *, missing_bytes: int, missing_files: int
) -> float | None:
    """Return the seconds until all is there; None while that cannot be told.

    A large file costs by its bytes, a small one by being a file, so the larger of both
    estimates counts. No large file may have ended for a while: then its bytes alone tell.
    """
    by_bytes = of_bytes.seconds_for(missing_bytes) if missing_bytes else 0.0
    by_files = of_files.seconds_for(missing_files) if missing_files else 0.0
    if by_bytes is None or (by_files is None and not missing_bytes):
        return None
    return max(by_bytes, by_files or 0.0)
