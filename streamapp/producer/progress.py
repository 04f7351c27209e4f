"""Measures a delivery: its rates, the time left, and since when nothing was sent or persisted.

The caller gives the time: *now* is in seconds, monotonic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamapp.producer.events import Progress
from streamapp.producer.rate import RateMeter, time_left


if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from streamapp.producer.delivery import Delivery
    from streamapp.producer.sender import Sender
    from streamapp.protocol.presence import Reason


class ProgressTracker:
    """Measures *delivery*, whose blocks *senders* send."""

    def __init__(
        self,
        delivery: Delivery,
        senders: Sequence[Sender],
        *,
        waits: bool,
        final_states: Container[str],
        now: float,
    ) -> None:
        """*waits*: blocks are done when they are persisted; otherwise when Kafka has them."""
        self._delivery = delivery
        self._senders = senders
        self._waits = waits
        self._final_states = final_states
        self._bytes_meter = RateMeter()
        self._files_meter = RateMeter()
        self._sent_since = now
        self._sent_mark = 0
        self._persisted_since = now
        self._persisted_mark = 0
        self._bytes_sent = 0
        self._bytes_done = 0
        self._files_done = 0

    def measure(self, now: float) -> None:
        """Note the delivery's numbers at *now*."""
        delivery = self._delivery
        sent = sum(sender.bytes_sent for sender in self._senders)
        self._bytes_sent = sent = min(delivery.bytes_wanted, sent)
        self._bytes_done = delivery.bytes_persisted if self._waits else sent
        states = (file.state for file in delivery.files.values())
        self._files_done = sum(
            state in self._final_states or state in {"skipped", "passed"} for state in states
        )
        self._bytes_meter.note(now, self._bytes_done)
        self._files_meter.note(now, self._files_done)
        # While blocks are read and compared, the delivery does not wait.
        checked = sum(sender.bytes_checked for sender in self._senders)
        if self._sent_mark != sent + checked:
            self._sent_mark, self._sent_since = sent + checked, now
        if self._persisted_mark != self._bytes_done + checked:
            self._persisted_mark, self._persisted_since = self._bytes_done + checked, now

    def unsent_seconds(self, now: float) -> float:
        """Return for how long nothing was sent."""
        return now - self._sent_since

    def unpersisted_seconds(self, now: float) -> float:
        """Return for how long nothing was persisted."""
        return now - self._persisted_since

    def event(self, reason: Reason | None) -> Progress:
        """Return the last measurement as an event; *reason* is why the delivery waits."""
        delivery = self._delivery
        return Progress(
            files=len(delivery.files),
            files_done=self._files_done,
            bytes=delivery.bytes_wanted,
            bytes_sent=self._bytes_sent,
            bytes_persisted=delivery.bytes_persisted,
            rate=self._bytes_meter.rate,
            waits=self._waits,
            waiting=reason.text if reason is not None else "",
            eta=self._time_left() if reason is None else None,
        )

    def _time_left(self) -> float | None:
        return time_left(
            self._bytes_meter,
            self._files_meter,
            missing_bytes=max(0, self._delivery.bytes_wanted - self._bytes_done),
            missing_files=len(self._delivery.files) - self._files_done,
        )
