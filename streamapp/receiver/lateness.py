"""Decides when the frames of an attempt are late. Pure: the time is given, in seconds."""

from __future__ import annotations

from typing import Final

from streamapp.units import KIB, format_size


AGE_TIMEOUTS: Final = 10
"""How many block timeouts an attempt may take, however slow it is."""

SLOWEST_BYTES: Final = 32 * KIB
"""Bytes a second that an attempt must reach on average if it takes longer: 256 kbit/s."""


class Progress:
    """How much of one attempt was received, and when.

    A frame is late if its producer did not send it. It is not late if this worker has not read
    it yet. So when an attempt exceeds a limit, the partition's end at that moment is noted, and the
    attempt is late once the partition is read up to there.
    """

    def __init__(self, now: float) -> None:
        self.received_bytes = 0
        self.last_seen = now
        self._began = now
        self._last_frame = -1
        self._end_when_overdue: int | None = None
        self._end_when_slow: int | None = None

    def note(self, frame: int, size: int, *, now: float) -> None:
        """Note *size* bytes of frame number *frame*; a repeated frame does not count."""
        if frame > self._last_frame:
            self._last_frame = frame
            self.received_bytes += size
            self._touch(now)

    def excuse(self, seconds: float, *, now: float) -> None:
        """Note that this worker read nothing for *seconds*, until now."""
        self._began += seconds
        self._touch(now)

    def lateness(self, *, now: float, block_timeout: float, highwater: int, read: int) -> str:
        """Return why the attempt is late; empty if it is not.

        *highwater* is the partition's end now, *read* the next offset to read.
        """
        if self._is_overdue(since=now - block_timeout, highwater=highwater, read=read):
            return f"no frame of it came for {block_timeout:.0f} s"
        least_seconds = AGE_TIMEOUTS * block_timeout
        if self._is_too_slow(now - self._began, least_seconds, highwater=highwater, read=read):
            return (
                f"{format_size(self.received_bytes)} of it came, which is too slow: after "
                f"{least_seconds:.0f} s it must be {format_size(SLOWEST_BYTES)} a second"
            )
        return ""

    def _is_overdue(self, *, since: float, highwater: int, read: int) -> bool:
        if self.last_seen >= since:
            return False
        if self._end_when_overdue is None:
            self._end_when_overdue = highwater
        return read >= self._end_when_overdue

    def _is_too_slow(
        self, seconds: float, least_seconds: float, *, highwater: int, read: int
    ) -> bool:
        """Return whether a producer that sends a byte now and then keeps the attempt open."""
        if seconds <= least_seconds + self.received_bytes / SLOWEST_BYTES:
            self._end_when_slow = None
            return False
        if self._end_when_slow is None:
            self._end_when_slow = highwater
        return read >= self._end_when_slow

    def _touch(self, now: float) -> None:
        self.last_seen = now
        self._end_when_overdue = None
