"""Decides whether a worker that was suspended may still write to its partitions' tables.

A process that is stopped past its session timeout (SIGSTOP, a closed lid, a paused virtual
machine) resumes with records that other workers have handled since. Kafka refuses its commits,
but not what it writes to a changelog. So after a gap the worker waits until Kafka has had the
time to expel it.
"""

from __future__ import annotations

import time

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable


class SessionGuard:
    """Notices gaps in which the process did not run. Used in the event loop only."""

    def __init__(
        self, session_timeout: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*session_timeout*: seconds after which Kafka expels a worker without heartbeats."""
        # Half of it: the last heartbeat may be older than the last call.
        self._longest_gap = session_timeout / 2
        # Five heartbeats; the answer to the first one shows whether the worker was expelled.
        self._wait = session_timeout / 2
        self._clock = clock
        self._seen = clock()
        self._safe_at = self._seen

    def seconds_until_safe(self) -> float:
        """Return the seconds for which nothing may be written; 0.0 when writing is safe.

        The first call after a gap notices it: call this before each write, and at intervals.
        """
        now = self._clock()
        if now - self._seen > self._longest_gap:
            self._safe_at = now + self._wait
        self._seen = now
        return max(0.0, self._safe_at - now)
