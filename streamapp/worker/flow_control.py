"""Faust's flow control without two faults: it loses no record, and no queue blocks another one.

For faust-streaming 0.15.3 and mode-streaming 0.7.1. During a rebalance Faust suspends its
streams, and resumes them two or three times. Each time, mode (the library below Faust) empties all
queues, including the records that came after the positions were set. Those records are lost to the
stream, and commits pass them.

One task distributes the records of all topics, and waits where a queue is full. So a partition
that is paused because its disk is full would stop the topic that reports it. Here a full queue
asks for no more records, and accepts those that were fetched.

Delete when mode empties its queues only on the first resume (`test_fault_of_mode` fails then) and
Faust does not wait for a full queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mode.utils.queues import FlowControlEvent, ThrowableQueue


if TYPE_CHECKING:
    _Queue = ThrowableQueue[Any]
else:
    _Queue = ThrowableQueue

FETCHED_RECORDS: Final = 64
"""Maximum records of one fetch; all may be of one partition."""


class FlowControl(FlowControlEvent):
    """Empties the queues when flow begins, and not when it is resumed again."""

    def resume(self) -> None:
        """Resume flow and drop the records that were queued before; do nothing if it flows."""
        if not self.is_active():
            super().resume()


class StreamQueue(_Queue):
    """A queue that asks for no more records at its size, and accepts those of one more fetch."""

    def full(self) -> bool:
        """Return whether a put must wait; only during recovery there is no flow control."""
        return bool(self.qsize() >= self.maxsize + FETCHED_RECORDS)
