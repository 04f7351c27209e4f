"""What a delivery tells whoever watches it: the person at the terminal, or a program.

Pure code. Each is one line of ``--json``; the field ``kind`` says which. Sizes are bytes,
rates bytes per second, times seconds. Names are shown as they are in JSON, and escaped on a
terminal (`report`).
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Parent of all events."""


class FileEvent(Event, frozen=True, kw_only=True, tag="file"):
    """A file reached a state, or something that lies among the files is not sent.

    What is *special* is no file, or a link that is not followed: by the settings it is not sent.
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
        """Return whether the file is not delivered, and will not be in this run."""
        return self.state in {"failed", "changed", "unreadable"}


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """Nothing can be done now; the delivery goes on by itself when it can."""

    reason: str


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """Something that people should know before it matters."""

    text: str


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """How far it is. *waits*: until all is persisted; *waiting*: why it cannot go on now.

    *eta* is None while that cannot be told: nothing moves, or something is waited for.
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


class BlockResent(Event, frozen=True, kw_only=True, tag="block_resent"):
    """A block will be sent again; *tries* is how often it was sent."""

    name: str
    file_id: str
    block: int
    tries: int
    reason: str


class BlockFailed(Event, frozen=True, kw_only=True, tag="block_failed"):
    """A block was given up after the last attempt."""

    name: str
    file_id: str
    block: int
    tries: int
    reason: str


class Summary(Event, frozen=True, kw_only=True, tag="summary"):
    """What came of it: *files* in all, and how many of them ended how.

    *sent* are those that Kafka has and the group has not answered. *special* are no files,
    or links that are not followed, and are not among *files*. *rate* is that of the bytes
    persisted; of those sent, when nobody waited.
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
