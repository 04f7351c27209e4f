"""Ends a process that was asked to stop, even if its brokers or its event loop do not respond.

Faust flushes and commits before it ends, and waits for a broker without a limit. Ending anyway
loses nothing: Kafka delivers again what was not acknowledged. docs/operations.md lists the
signals.
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
"""Seconds that a stop may take; 15 s are documented, and systemd and Docker wait longer."""

AGAIN_SECONDS: Final = 1.0
"""`timeout`, a shell or systemd may send one signal twice; a later one is a second request."""

EXIT_AT_ONCE: Final = 130
"""The exit code that shells report for a process that Ctrl-C ended."""

LAST_WORD_SECONDS: Final = 1.0


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end a process; SIGHUP is left out where `nohup` ignores it."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return tuple(found)


def leave(code: int, message: str) -> None:
    """End the process at once with *code*; *message* is logged if the log is not blocked."""

    def log() -> None:
        logger.warning("%s", message)
        logging.shutdown()
        sys.stderr.flush()

    logging_thread = threading.Thread(target=log, daemon=True)  # the log's lock may be held
    logging_thread.start()
    logging_thread.join(LAST_WORD_SECONDS)
    os._exit(code)


def end_within(seconds: float = STOP_SECONDS) -> threading.Timer:
    """End the process after *seconds*, if it did not end by itself."""
    timer = threading.Timer(seconds, leave, (0, _late(seconds)))
    timer.daemon = True
    timer.start()
    return timer


class SignalThread(threading.Thread):
    """Waits for the signals that end a worker, independent of its other threads.

    The first signal stops the worker, and ends the process if that takes too long. A second one,
    more than a second later, ends it at once.
    """

    def __init__(self) -> None:
        """Block the signals in this thread, and in the threads that it starts from now on."""
        super().__init__(name="signals", daemon=True)
        self._signals = frozenset(stop_signals())
        self._stop_worker: Callable[[], object] | None = None
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)

    def worker_runs(self, stop: Callable[[], object]) -> None:
        """Let a signal call *stop* from now on; before this call a signal ends the process."""
        self._stop_worker = stop

    def run(self) -> None:
        """Wait for signals."""
        name = signal.Signals(signal.sigwait(self._signals)).name
        if self._stop_worker is None:
            leave(0, f"{name} before the worker began: ending")
            return
        logger.info("%s: stopping", name)
        began = time.monotonic()
        with contextlib.suppress(RuntimeError):  # the event loop is closed: the process is ending
            self._stop_worker()
        while (left := began + STOP_SECONDS - time.monotonic()) > 0:
            again = signal.sigtimedwait(self._signals, left)
            if again is not None and is_second(again.si_signo, time.monotonic() - began):
                leave(EXIT_AT_ONCE, "told to stop again: ending at once")
        leave(0, _late(STOP_SECONDS))


def is_second(number: int, seconds: float) -> bool:
    """Return whether signal *number*, *seconds* after the first, ends a process at once."""
    return number in {signal.SIGINT, signal.SIGTERM} and seconds >= AGAIN_SECONDS


def event_of_signals(*, second_ends: bool = True) -> threading.Event:
    """Return an event that signals set; a second one, more than a second later, ends the process.

    For commands, on every system. The handler uses a queue, because a signal may come while its
    thread holds the event's lock.
    """
    received: queue.SimpleQueue[int] = queue.SimpleQueue()
    stop = threading.Event()

    def follow() -> None:
        received.get()
        began = time.monotonic()
        stop.set()
        while True:
            if is_second(received.get(), time.monotonic() - began) and second_ends:
                os._exit(EXIT_AT_ONCE)

    threading.Thread(target=follow, name="signals", daemon=True).start()
    for number in stop_signals():
        signal.signal(number, lambda given, _frame: received.put(given))
    return stop


def _late(seconds: float) -> str:
    return f"not stopped after {seconds:.0f} s (does a broker answer?): ending anyway"
