"""The events that a delivery reports, and the reporter that receives them.

Pure code. Each event is one line of ``--json``, with its class in the field ``kind``. Sizes are in
bytes, rates in bytes per second, times in seconds. Names are unchanged in JSON, and escaped on a
terminal.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Parent of all events."""


class FileEvent(Event, frozen=True, kw_only=True, tag="file"):
    """A file reached a state, or an entry of the folder is not sent.

    A *special* entry is not a file, or is a link that is not followed: the settings exclude it.
    """

    name: str
    state: Literal[
        "announced", "sent", "complete", "skipped", "failed", "changed", "unreadable", "special"
    ]
    file_id: str = ""
    size: int = 0
    reason: str = ""

    @property
    def is_problem(self) -> bool:
        """Return whether this run cannot deliver the file."""
        return self.state in {"failed", "changed", "unreadable"}


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """The delivery waits for brokers or workers; it resumes by itself."""

    reason: str


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """A warning, or a fact that the user needs."""

    text: str


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """How far the delivery is.

    *waits*: the run waits until the blocks are persisted. *waiting*: the reason why the delivery
    waits now, or empty. *eta*: the seconds left, or None while they cannot be estimated.
    """

    files: int
    files_done: int
    bytes: int
    bytes_sent: int
    bytes_persisted: int
    rate: float
    eta: float | None
    waits: bool = True
    waiting: str = ""


class BlockEvent(Event, frozen=True, kw_only=True):
    """An attempt at a block failed for *reason*, after *tries* attempts in all."""

    name: str
    file_id: str
    block: int
    tries: int
    reason: str


class BlockResent(BlockEvent, frozen=True, kw_only=True, tag="block_resent"):
    """The block will be sent again."""


class BlockFailed(BlockEvent, frozen=True, kw_only=True, tag="block_failed"):
    """The block failed: that was the last attempt."""


class Summary(Event, frozen=True, kw_only=True, tag="summary"):
    """The result of a run: *files* in all, and how many of them ended in each state.

    Kafka has the *sent* files, and the group has not acknowledged all of their blocks. *special*
    entries are not counted in *files*. *rate* is that of the persisted bytes, or that of the sent
    bytes if the run does not wait.
    """

    files: int
    delivered: int
    sent: int
    skipped: int
    changed: int
    unreadable: int
    failed: int
    blocks_sent: int
    blocks_resent: int
    bytes_sent: int
    bytes_persisted: int
    seconds: float
    rate: float
    special: int = 0


class Reporter(Protocol):
    """Receives every event of a delivery, from one thread."""

    def __call__(self, event: Event) -> None:
        """Report *event*."""

    def close(self) -> None:
        """Release what the reporter holds, for example the terminal."""
