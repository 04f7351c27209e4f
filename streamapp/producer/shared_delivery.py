"""The one door to the `Delivery` for all threads: a lock, and waiting without spinning."""

from __future__ import annotations

import threading

from typing import TYPE_CHECKING, Literal


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamapp.producer.delivery import Delivery, View
    from streamapp.producer.events import Event
    from streamapp.producer.model import Block, File
    from streamapp.protocol.messages import BlockAck


class SharedDelivery:
    """Readers take blocks here, and everybody reports here."""

    def __init__(self, delivery: Delivery, clock: Callable[[], float]) -> None:
        """*clock* counts seconds and never goes back."""
        self.delivery = delivery
        self.lock = threading.Lock()
        self._clock = clock
        self._changed = threading.Condition(self.lock)
        self._busy: set[int] = set()

    def take(self, within: float) -> Block | None:
        """Return a block to send, whose partition is the caller's until `release`."""
        with self._changed:
            block = self.delivery.take(self._clock(), self._busy)
            if block is None:
                self._changed.wait(within)
                block = self.delivery.take(self._clock(), self._busy)
            if block is not None:
                self._busy.add(block.partition)
            return block

    def release(self, partition: int) -> None:
        """Let others send to *partition*."""
        with self._changed:
            self._busy.discard(partition)
            self._changed.notify_all()

    def sent(self, block: Block, attempt: int, offsets: tuple[int, int], sha256: bytes) -> None:
        """See `Delivery.sent`."""
        with self._changed:
            self.delivery.sent(block, attempt, offsets, sha256)
            self._notify_when_done()

    def checked(self, block: Block, attempt: int, sha256: bytes) -> None:
        """See `Delivery.checked`."""
        with self._changed:
            self.delivery.checked(block, attempt, sha256, self._clock())
            self._notify_when_done()

    def retry(self, block: Block, attempt: int, reason: str) -> None:
        """See `Delivery.retry`."""
        with self._changed:
            self.delivery.retry(block, attempt, reason, self._clock())
            self._notify_when_done()

    def drop(self, file: File, state: Literal["changed", "unreadable"], reason: str) -> None:
        """See `Delivery.drop`."""
        with self._changed:
            self.delivery.drop(file, state, reason)
            self._notify_when_done()

    def acknowledged(self, acks: Iterable[BlockAck]) -> None:
        """See `Delivery.acknowledged`."""
        with self._changed:
            now = self._clock()
            for ack in acks:
                self.delivery.acknowledged(ack, now)
            self._notify_when_done()

    def look(self, view: View) -> None:
        """See `Delivery.look`."""
        with self._changed:
            self.delivery.look(view, self._clock())
            self._notify_when_done()

    def drain(self, within: float) -> tuple[list[Event], list[File]]:
        """Return what happened since the last call; wait for it, but not long."""
        with self._changed:
            if not (self.delivery.is_done or self.delivery.events):
                self._changed.wait(within)
            events, self.delivery.events = self.delivery.events, []
            touched, self.delivery.touched = self.delivery.touched, {}
            return events, list(touched.values())

    def _notify_when_done(self) -> None:
        if self.delivery.is_done:
            self._changed.notify_all()
