"""Ends a worker that is stuck, before it does harm; its supervisor restarts it.

Faust can stop silently: a consumer that fetches no more, commits that do not advance, a recovery
that waits for a record that never comes, a blocked event loop. The watchdog compares ends and
commits, which its own thread asks the broker for, so that a blocked event loop cannot hide a
fault. The process ends with exit code 75 and acknowledges nothing: Kafka delivers its records
again.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from streamapp.errors import WatchdogError
from streamapp.protocol.topics import Place
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
LOOP_LOOKS: Final = 12
"""Consecutive looks that find the event loop silent; a suspended process makes only one."""

LONGEST_LOOK: Final = 3 * LOOK_SECONDS
"""Maximum seconds that count between two looks, after a suspension or a slow broker."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one look found. Offsets by topic and partition; None if the broker does not answer."""

    now: float
    loop_answered: bool
    ready: bool
    holding: bool
    taken: dict[Place, int]
    committed: dict[Place, int] | None
    ends: dict[Place, int] | None


class Watchdog:
    """Judges one sample after another. Pure: the time is in the sample."""

    def __init__(self, *, patience: float, recovery_patience: float) -> None:
        """*patience*: seconds without progress; *recovery_patience*: seconds until ready."""
        self._patience = patience
        self._recovery_patience = recovery_patience
        self._silent_looks = 0
        self._looked_at: float | None = None
        self._not_ready_for = 0.0
        self._seen: dict[Place, tuple[float, int, int]] = {}  # idle for, committed, taken

    def judge(self, sample: Sample) -> str:
        """Return why the worker is stuck; empty when *sample* does not show that."""
        step = 0.0 if self._looked_at is None else sample.now - self._looked_at
        step = min(step, LONGEST_LOOK)
        self._looked_at = sample.now
        self._silent_looks = 0 if sample.loop_answered else self._silent_looks + 1
        if self._silent_looks >= LOOP_LOOKS:
            return f"the event loop did not answer {self._silent_looks} looks in a row"
        if not sample.ready:
            self._seen.clear()
            self._not_ready_for += step
            if self._not_ready_for > self._recovery_patience:
                return f"the tables are not recovered after {self._not_ready_for:.0f} s"
            return ""
        self._not_ready_for = 0.0
        return self._judge_progress(sample, step)

    def _judge_progress(self, sample: Sample, step: float) -> str:
        """Return which partition has records and no progress: neither commits nor frames received.

        Time in which the event loop did not answer does not count: no stream runs then.
        """
        step = step if sample.loop_answered else 0.0
        if sample.committed is None or sample.ends is None:
            return ""
        before, self._seen = self._seen, {}  # without revoked partitions
        for place, end in sample.ends.items():
            now = sample.committed.get(place, 0), sample.taken.get(place, 0)
            idle, *last = before.get(place, (0.0, -1, -1))
            moves = now != tuple(last) or now[0] >= end or sample.holding
            idle = 0.0 if moves else idle + step
            self._seen[place] = (idle, *now)
            if idle > self._patience:
                topic, partition = place
                return (
                    f"{topic}-{partition}: {counted(end - now[0], 'record')} to do, none taken and "
                    f"none committed for {idle:.0f} s"
                )
        return ""


class Watched(Protocol):
    """What the watchdog observes: the worker and its broker."""

    def sample(self, *, loop_answered: bool) -> Sample:
        """Return the state now."""

    def ask_loop(self, answer: Callable[[], object]) -> None:
        """Have the event loop call *answer*."""

    def before_exit(self, reason: str) -> None:
        """Do what must be done before the process ends; it also ends if this raises."""


class WatchdogThread(threading.Thread):
    """Takes a sample every few seconds, and ends the process when the worker is stuck."""

    def __init__(self, watched: Watched, watchdog: Watchdog) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._watched = watched
        self._watchdog = watchdog
        self._stopped = threading.Event()
        self._answered = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                reason = self._look()
            except Exception:  # without its thread nothing would be noticed any more
                logger.exception("watchdog: cannot look, trying again")
                continue
            if reason:
                self._end(reason)

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _look(self) -> str:
        answered = self._answered.is_set()
        self._answered.clear()
        self._watched.ask_loop(self._answered.set)
        return self._watchdog.judge(self._watched.sample(loop_answered=answered))

    def _end(self, reason: str) -> None:
        logger.critical("watchdog: %s; the worker ends, to be started again", reason)
        try:
            self._watched.before_exit(reason)
            logging.shutdown()
        finally:
            os._exit(WatchdogError.exit_code)


def now() -> float:
    """Return the clock of samples: seconds that only increase."""
    return time.monotonic()
