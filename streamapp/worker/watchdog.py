"""Notices a worker that is stuck, and ends it before it does harm: its supervisor restarts it.

Faust can stop quietly: a consumer that fetches no more, commits that no longer move, a
recovery that waits for a record that never comes, an event loop that something blocks. What
is judged here comes from the broker (ends and commits), asked by a thread of its own, so
that a stuck event loop cannot say that all is well. The process ends with exit code 75 and
acknowledges nothing: what it held comes again.
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
"""Looks in a row that find the event loop silent; a frozen and woken process makes only one."""

LONGEST_LOOK: Final = 3 * LOOK_SECONDS
"""As much time counts between two looks: frozen, or asking a slow broker, nobody looked."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one look found. Offsets by topic and partition; None where the broker is silent."""

    now: float
    loop_answered: bool
    ready: bool
    holding: bool
    taken: dict[Place, int]
    committed: dict[Place, int] | None
    ends: dict[Place, int] | None


class Watchdog:
    """Judges one look after the other. Pure: the clock comes with the sample."""

    def __init__(self, *, patience: float, recovery_patience: float) -> None:
        """*patience*: seconds without progress; *recovery_patience*: seconds until ready."""
        self._patience = patience
        self._recovery_patience = recovery_patience
        self._silent_looks = 0
        self._looked_at: float | None = None
        self._not_ready_for = 0.0
        self._seen: dict[Place, tuple[float, int, int]] = {}  # idle for, committed, taken

    def judge(self, sample: Sample) -> str:
        """Return why the worker is stuck; empty when it is not, as far as *sample* tells."""
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
        """Where there is something to do, commits must move, or at least frames be taken.

        While the event loop is too busy to answer, no stream has its turn: that is no hang of a
        partition, and does not count as one. A loop that never answers is judged by its silence.
        """
        step = step if sample.loop_answered else 0.0
        if sample.committed is None or sample.ends is None:
            return ""  # no broker, no judgement
        before, self._seen = self._seen, {}  # what others have by now is forgotten
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
    """What the watchdog looks at: the worker and its broker."""

    def sample(self, *, loop_answered: bool) -> Sample:
        """Return what there is to see now."""

    def ask_loop(self, answer: Callable[[], object]) -> None:
        """Have the event loop call *answer*."""

    def before_exit(self, reason: str) -> None:
        """Do what must be done before the process ends; it ends all the same."""


class WatchdogThread(threading.Thread):
    """Looks every few seconds, and ends the process when the worker is stuck."""

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
            except Exception:  # a watchdog that died would say that all is well
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
    """Return the clock that samples carry: seconds that only go forward."""
    return time.monotonic()
