"""Whether a worker that was frozen may still take its partitions for its own.

A process that is stopped past its session timeout (SIGSTOP, a closed lid, a paused virtual
machine) wakes up with records that others have handled long since. Kafka refuses its commits,
but nobody refuses what it writes to a table's changelog. So after a gap it waits, until Kafka
has had the time to say that it was expelled.
"""

from __future__ import annotations

import time

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable


class SessionGuard:
    """Notices that time has passed without us. Used from the event loop alone."""

    def __init__(
        self, session_timeout: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*session_timeout*: seconds after which Kafka expels a silent worker."""
        # Half of it: the last heartbeat may be older than the last time that we looked.
        self._longest_gap = session_timeout / 2
        # Five heartbeats, and the first that is answered says whether we were expelled.
        self._doubt = session_timeout / 2
        self._clock = clock
        self._seen = clock()
        self._sure_at = self._seen

    def seconds_until_safe(self) -> float:
        """Return the seconds for which nothing may be written; 0.0 when all is well.

        Whoever asks first after a gap notices it: ask before each write, and now and then.
        """
        now = self._clock()
        if now - self._seen > self._longest_gap:
            self._sure_at = now + self._doubt
        self._seen = now
        return max(0.0, self._sure_at - now)
