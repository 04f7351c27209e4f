"""Ends a process that was told to stop, also when its brokers or its event loop do not let it.

Faust flushes and commits before it ends, and waits for a broker as long as it takes. Nothing
is lost by ending anyway: what is not acknowledged comes again. docs/operations.md says which
signal does what.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time

from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 12.0
"""How long a stop may take; the promise is 15 s, and systemd's and Docker's patience longer."""

AGAIN_SECONDS: Final = 1.0
"""One wish to stop may arrive twice (from `timeout`, a shell or systemd), but not so late."""

EXIT_AT_ONCE: Final = 130
"""What shells say of a process that Ctrl-C ended."""

LAST_WORD_SECONDS: Final = 1.0


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end a process; a hangup is ignored where `nohup` had it ignored."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return tuple(found)


def leave(code: int, message: str) -> None:
    """End the process at once with *code*; *message* is logged if the log can take it."""

    def say() -> None:
        logger.warning("%s", message)
        logging.shutdown()
        sys.stderr.flush()

    last_word = threading.Thread(target=say, daemon=True)  # the log's lock may be held for ever
    last_word.start()
    last_word.join(LAST_WORD_SECONDS)
    os._exit(code)


def end_within(seconds: float = STOP_SECONDS) -> threading.Timer:
    """End the process in so many *seconds*, if it did not end by itself."""
    timer = threading.Timer(seconds, leave, (0, _late(seconds)))
    timer.daemon = True
    timer.start()
    return timer


class SignalThread(threading.Thread):
    """Waits for the signals that end a worker, whatever its other threads are busy with.

    The first one has the worker stop, and ends it when that takes too long. A second one,
    not within a second, ends it at once.
    """

    def __init__(self) -> None:
        """Block the signals in this thread, and in those that it starts from now on."""
        super().__init__(name="signals", daemon=True)
        self._signals = frozenset(stop_signals())
        self._stop_worker: Callable[[], object] | None = None
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)

    def worker_runs(self, stop: Callable[[], object]) -> None:
        """Have a signal call *stop* from now on; until now it ends the process."""
        self._stop_worker = stop

    def run(self) -> None:
        """Wait for signals."""
        name = signal.Signals(signal.sigwait(self._signals)).name
        if self._stop_worker is None:
            leave(0, f"{name} before the worker began: ending")
            return
        logger.info("%s: stopping", name)
        began = time.monotonic()
        with contextlib.suppress(RuntimeError):  # the event loop is closed: it ends already
            self._stop_worker()
        while (left := began + STOP_SECONDS - time.monotonic()) > 0:
            again = signal.sigtimedwait(self._signals, left)
            if again is not None and is_second(again.si_signo, time.monotonic() - began):
                leave(EXIT_AT_ONCE, "told to stop again: ending at once")
        leave(0, _late(STOP_SECONDS))


def is_second(number: int, seconds: float) -> bool:
    """Return whether signal *number*, so many *seconds* after the first, ends a process at once."""
    return number in {signal.SIGINT, signal.SIGTERM} and seconds >= AGAIN_SECONDS


def event_of_signals(*, second_ends: bool = True) -> threading.Event:
    """Return an event that signals set; a second one, not within a second, ends the process.

    For commands, on every system: the signal only goes through a queue, because it may come
    while this very thread has the event's lock.
    """
    told: queue.SimpleQueue[int] = queue.SimpleQueue()
    stop = threading.Event()

    def follow() -> None:
        told.get()
        began = time.monotonic()
        stop.set()
        while True:
            if is_second(told.get(), time.monotonic() - began) and second_ends:
                os._exit(EXIT_AT_ONCE)

    threading.Thread(target=follow, name="signals", daemon=True).start()
    for number in stop_signals():
        signal.signal(number, lambda given, _frame: told.put(given))
    return stop


def _late(seconds: float) -> str:
    return f"not stopped after {seconds:.0f} s (does a broker answer?): ending anyway"
