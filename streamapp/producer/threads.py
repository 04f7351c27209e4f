"""The threads of a run: an error in one of them ends the run."""

from __future__ import annotations

import threading
import time

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable


class ThreadGroup:
    """Threads that end when `closing` is set; a stuck one, a daemon, does not block the exit."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Start a thread that runs *work*."""
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def fail(self, error: BaseException) -> None:
        """Store *error* as the failure of the run, unless it has one."""
        self.failure = self.failure or error

    def close(self, within: float) -> None:
        """End all threads; wait for them up to *within* seconds."""
        self.closing.set()
        deadline = time.monotonic() + within
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the steering thread raises it again
            self.fail(error)
