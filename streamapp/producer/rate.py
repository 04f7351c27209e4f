"""Computes the rate of a growing number over the last half minute, and the time left. Pure code."""

from __future__ import annotations

from collections import deque
from typing import Final


WINDOW_SECONDS: Final = 30.0
"""Long enough to even out single blocks, short enough to follow a change within a minute."""
SHORTEST_SECONDS: Final = 1.0
"""A rate is computed over at least this time: growth within less is a burst."""
SETTLED_SECONDS: Final = 5.0
"""Before this, no estimate is given: in the first seconds, estimates were off by a factor of 30."""
LONGEST_SECONDS: Final = 30 * 24 * 3600.0
"""A longer estimate is not reported: its rate comes from a few bytes and a long pause."""


class RateMeter:
    """Takes a sample of a growing number about every second."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, value: int) -> None:
        """Add the sample *value* at *now* (seconds)."""
        if self._samples and self._samples[0][1] == value:  # a time without growth does not count
            self._samples.clear()
        self._samples.append((now, value))
        while now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """The growth per second."""
        if not self._samples:
            return 0.0
        (since, before), (now, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / max(now - since, SHORTEST_SECONDS))

    def seconds_for(self, missing: int) -> float | None:
        """Return how long *missing* takes at this rate; None while that is unknown."""
        rate = self.rate
        if not rate or self._samples[-1][0] - self._samples[0][0] < SETTLED_SECONDS:
            return None
        seconds = missing / rate
        return seconds if seconds < LONGEST_SECONDS else None


def time_left(
    of_bytes: RateMeter, of_files: RateMeter, *, missing_bytes: int, missing_files: int
) -> float | None:
    """Return the seconds left; None while they cannot be estimated.

    The time of large files depends on their bytes, that of small files on their number, so the
    larger of both estimates counts. While a large file is sent, no file may end: then the estimate
    by bytes counts alone.
    """
    by_bytes = of_bytes.seconds_for(missing_bytes) if missing_bytes else 0.0
    by_files = of_files.seconds_for(missing_files) if missing_files else 0.0
    if by_bytes is None or (by_files is None and not missing_bytes):
        return None
    return max(by_bytes, by_files or 0.0)
