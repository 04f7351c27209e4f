"""Faust's flow control, less two faults: nothing is thrown away, and no one holds up the others.

While partitions move Faust suspends its streams. It resumes them two or three times: for the
tables to recover, and again when they have. mode empties all queues each time, also of
records that came in between, after the positions were set. They were never seen again: the
stream went on behind them, and so did the commits.

And one task hands out the records of all topics: where a queue is full, it waits there, and
nobody gets any. A partition that holds because its disk is full would stop even the status
that says so. So a queue that is full asks for no more, and still takes what was fetched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mode.utils.queues import FlowControlEvent, ThrowableQueue


if TYPE_CHECKING:
    _Queue = ThrowableQueue[Any]
else:
    _Queue = ThrowableQueue

FETCHED_RECORDS: Final = 64
"""Most records that come in one fetch; they may all be of one partition."""


class FlowControl(FlowControlEvent):
    """Empties the queues when flow begins, and not while it goes on."""

    def resume(self) -> None:
        """Let records in; what was queued before the flow was suspended goes."""
        if not self.is_active():
            super().resume()


class StreamQueue(_Queue):
    """A queue that is under pressure at its size, but has room for one more fetch."""

    def full(self) -> bool:
        """Return whether whoever puts something in has to wait: never, outside of recovery."""
        return bool(self.qsize() >= self.maxsize + FETCHED_RECORDS)
