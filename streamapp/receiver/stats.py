"""What a worker knows of itself: what it did, what it waits for, how fast it is.

Counts since the worker started; the agents move them, heartbeats and views read them.
"""

from __future__ import annotations

import collections
import time

from typing import TYPE_CHECKING, Final, Literal


if TYPE_CHECKING:
    from streamapp.kafka.broker_contact import BrokerContact

RATE_SECONDS: Final = 10.0
"""Span that the rate is taken over: long enough for a few blocks, short enough to be live."""


class WorkerStats:
    """One worker's counters. Used from the event loop alone."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self.blocks = 0
        self.bytes = 0
        self.repeated = 0
        self.elsewhere = 0  # blocks that another machine had already
        self.rejected = 0
        self.quarantined = 0
        self.corrupt = 0  # stored blocks that were found bad
        self.deleted_unread = 0  # records that retention took before this group read them
        self.open_blocks = 0
        self.taken: dict[tuple[str, int], int] = {}  # records, by topic and partition
        self.stopping = False
        self.folders: tuple[str, ...] = ()  # identities of the data folders that are in place
        self.start_id = ""  # random, new at each start
        self.retention_seconds: float | None = None
        self.oldest_unread: float | None = None  # when the oldest record not done was written
        self.contact: BrokerContact | None = None  # as soon as Kafka was asked for its topics
        self._holds: dict[str, str] = {}
        self._recent: collections.deque[tuple[float, int]] = collections.deque()

    def took(self, topic: str, partition: int) -> None:
        """Count a record of any kind: the watchdog sees by it that something moves."""
        place = topic, partition
        self.taken[place] = self.taken.get(place, 0) + 1

    def persisted(self, size: int) -> None:
        """Count a block of *size* bytes that is persisted now and was not before."""
        self.blocks += 1
        self.bytes += size

    def received(self, size: int) -> None:
        """Count *size* bytes that were written just now; they make the rate."""
        self._recent.append((time.monotonic(), size))
        self._trim()

    def broker_answered(self) -> None:
        """Note that a broker answered just now."""
        if self.contact is not None:
            self.contact.note_answer()

    def hold(self, what: str, reason: str) -> None:
        """Note that *what* waits, and why."""
        self._holds[what] = reason

    def release(self, what: str) -> None:
        """Note that *what* goes on."""
        self._holds.pop(what, None)

    @property
    def retention_left(self) -> float | None:
        """The seconds until Kafka deletes the oldest record that is not done.

        None when all is read, or Kafka keeps records without a limit of time.
        """
        if self.oldest_unread is None or self.retention_seconds is None:
            return None
        return self.oldest_unread + self.retention_seconds - time.time()

    @property
    def reason(self) -> str:
        """Why the worker holds, each kind of reason once; empty when it does not."""
        no_broker = self.contact.reason if self.contact is not None else ""
        kinds: dict[str, str] = {}
        for reason in filter(None, (no_broker, *self._holds.values())):
            kinds.setdefault(reason.partition(": ")[0], reason)
        return "; ".join(kinds.values())

    @property
    def state(self) -> Literal["running", "holding", "stopping"]:
        """``running``, ``holding`` (something waits for room, a disk or Kafka) or ``stopping``."""
        if self.stopping:
            return "stopping"
        return "holding" if self.reason else "running"

    @property
    def rate(self) -> float:
        """Bytes per second over the last seconds."""
        self._trim()
        return sum(size for _, size in self._recent) / RATE_SECONDS

    def _trim(self) -> None:
        oldest = time.monotonic() - RATE_SECONDS
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()
