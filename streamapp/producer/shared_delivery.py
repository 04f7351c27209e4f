"""The `Delivery` as the threads of a run share it: a lock, and waits that do not spin."""

from __future__ import annotations

import contextlib
import threading

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamapp.producer.delivery import Delivery
    from streamapp.producer.events import Event
    from streamapp.producer.model import Block, File


class SharedDelivery:
    """Serializes the access to a `Delivery`, and gives each reader its own partition."""

    def __init__(self, delivery: Delivery, clock: Callable[[], float]) -> None:
        """*clock* returns monotonic seconds."""
        self.delivery = delivery
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._busy: set[int] = set()

    @contextlib.contextmanager
    def locked(self) -> Iterator[tuple[Delivery, float]]:
        """Give the delivery and the time, and lock the delivery until the context ends.

        Waiting threads are woken when the delivery is done afterwards.
        """
        with self._changed:
            yield self.delivery, self._clock()
            if self.delivery.is_done:
                self._changed.notify_all()

    def take(self, within: float) -> Block | None:
        """Return a block to send, or None after *within* seconds.

        No other thread gets a block of the same partition until `release`.
        """
        with self._changed:
            block = self.delivery.take(self._clock(), self._busy)
            if block is None:
                self._changed.wait(within)
                block = self.delivery.take(self._clock(), self._busy)
            if block is not None:
                self._busy.add(block.partition)
            return block

    def release(self, partition: int) -> None:
        """Let other threads take blocks of *partition*."""
        with self._changed:
            self._busy.discard(partition)
            self._changed.notify_all()

    def drain(self, within: float) -> tuple[list[Event], list[File]]:
        """Return the events and the touched files since the last call.

        Wait up to *within* seconds when there is no event and the delivery is not done.
        """
        with self._changed:
            if not (self.delivery.is_done or self.delivery.events):
                self._changed.wait(within)
            events, self.delivery.events = self.delivery.events, []
            touched, self.delivery.touched = self.delivery.touched, {}
            return events, list(touched.values())
