"""A worker's counters since its start, the reasons why it is paused, and its rate.

The agents and receivers update them; heartbeats and views read them.
"""

from __future__ import annotations

import collections
import time

from typing import TYPE_CHECKING, Final, Literal


if TYPE_CHECKING:
    from streamapp.kafka.broker_contact import BrokerContact

RATE_SECONDS: Final = 10.0
"""Seconds over which the rate is averaged: enough for a few blocks."""


class WorkerStats:
    """One worker's counters. Used in the event loop only."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self.blocks = 0
        self.bytes = 0
        self.repeated = 0
        self.elsewhere = 0  # blocks that another machine had persisted
        self.rejected = 0
        self.quarantined = 0
        self.corrupt = 0  # stored blocks that were found bad
        self.deleted_unread = 0  # records that retention deleted before this group read them
        self.open_blocks = 0
        self.taken: dict[tuple[str, int], int] = {}  # records received, by topic and partition
        self.stopping = False
        self.folders: tuple[str, ...] = ()  # identities of the data folders that are in place
        self.start_id = ""  # random, new at each start
        self.retention_seconds: float | None = None
        self.oldest_unread: float | None = (
            None  # when the oldest record that is not acknowledged was written
        )
        self.contact: BrokerContact | None = None  # None until the worker is prepared
        self._holds: dict[str, str] = {}
        self._recent: collections.deque[tuple[float, int]] = collections.deque()

    def took(self, topic: str, partition: int) -> None:
        """Count a record of any topic; the watchdog uses the counts."""
        key = topic, partition
        self.taken[key] = self.taken.get(key, 0) + 1

    def persisted(self, size: int) -> None:
        """Count a block of *size* bytes that was persisted."""
        self.blocks += 1
        self.bytes += size

    def received(self, size: int) -> None:
        """Count *size* bytes that were written now, for the rate."""
        self._recent.append((time.monotonic(), size))
        self._trim()

    def broker_answered(self) -> None:
        """Note that a broker answered now."""
        if self.contact is not None:
            self.contact.note_answer()

    def hold(self, what: str, reason: str) -> None:
        """Note that *what* is paused, and why."""
        self._holds[what] = reason

    def release(self, what: str) -> None:
        """Note that *what* is resumed."""
        self._holds.pop(what, None)

    @property
    def retention_left(self) -> float | None:
        """The seconds until Kafka deletes the oldest record that is not acknowledged.

        None without such a record, or without a time limit.
        """
        if self.oldest_unread is None or self.retention_seconds is None:
            return None
        return self.oldest_unread + self.retention_seconds - time.time()

    @property
    def reason(self) -> str:
        """Why the worker is paused, each kind of reason once; empty when it is not."""
        no_broker = self.contact.reason if self.contact is not None else ""
        kinds: dict[str, str] = {}
        for reason in filter(None, (no_broker, *self._holds.values())):
            kinds.setdefault(reason.partition(": ")[0], reason)
        return "; ".join(kinds.values())

    @property
    def state(self) -> Literal["running", "holding", "stopping"]:
        """``running``, ``holding`` (paused: it waits for a disk or Kafka) or ``stopping``."""
        if self.stopping:
            return "stopping"
        return "holding" if self.reason else "running"

    @property
    def rate(self) -> float:
        """Bytes a second over the last `RATE_SECONDS`."""
        self._trim()
        return sum(size for _, size in self._recent) / RATE_SECONDS

    def _trim(self) -> None:
        oldest = time.monotonic() - RATE_SECONDS
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()
