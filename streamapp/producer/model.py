"""One file and one block of a delivery, with their states.

Pure code. A `Block` exists only while the block is queued or in flight. So a file takes memory for
its blocks that are in flight, and 32 bytes for each acknowledged block.
"""

from __future__ import annotations

import enum

from typing import TYPE_CHECKING, Literal

from streamapp.producer.version import Version


if TYPE_CHECKING:
    from streamapp.producer.sources.scan import SourceFile

FileState = Literal[
    "waiting",  # nothing was published about it yet
    "announced",
    "sent",  # Kafka has all of it
    "complete",  # persisted during this run
    "skipped",  # persisted before this run
    "passed",  # not sent, because of --only-failed
    "failed",
    "changed",
    "unreadable",
]


def final_states(*, waits: bool) -> frozenset[FileState]:
    """Return the states in which a file that this run announced needs no more of it.

    Without *waits*, a file is final when Kafka has all of it.
    """
    states: set[FileState] = {"complete", "failed", "changed", "unreadable"}
    return frozenset(states if waits else states | {"sent"})


class File:
    """One file. Only `Delivery` changes it."""

    __slots__ = (
        "blocks", "busy", "failed", "has_failed", "is_failed", "is_sent", "left",
        "others", "reason", "refused", "source", "state", "version",
    )  # fmt: skip

    def __init__(self, source: SourceFile, blocks: int) -> None:
        self.source = source
        self.blocks = blocks
        self.left = blocks  # blocks that are neither persisted nor failed
        self.busy = blocks  # of these: blocks of which Kafka does not have all frames
        self.state: FileState = "waiting"
        self.failed: dict[int, str] | None = None  # reasons by number of the failed block
        self.reason = ""  # why the file is failed, changed or unreadable
        self.has_failed = False  # in an earlier run, as the status topic reports
        self.is_failed = False  # no more attempts in this run
        self.is_sent = False  # this run sent some of it
        self.version = Version(source.file_id, blocks)
        self.others: dict[str, Version] | None = None  # by file id, without the current one
        self.refused: set[str] | None = None  # ids whose content is not the source's

    @property
    def file_id(self) -> str:
        """The id under which the file is sent."""
        return self.version.file_id

    @property
    def is_aborted(self) -> bool:
        """Return whether nothing more of the file is sent."""
        return self.is_failed or self.state in {"changed", "unreadable", "passed"}

    @property
    def versions(self) -> list[Version]:
        """All known versions, the current one first."""
        return [self.version, *(self.others or {}).values()]

    def find(self, file_id: str) -> Version | None:
        """Return the version with *file_id*, or None if it is unknown."""
        if file_id == self.version.file_id:
            return self.version
        return (self.others or {}).get(file_id)

    def add(self, version: Version) -> None:
        """Add a known version of the file."""
        self.others = (self.others or {}) | {version.file_id: version}

    def choose(self, version: Version) -> None:
        """Make *version* the current one, which is compared and sent."""
        if version is not self.version:
            self.add(self.version)
            self.version = version
            (self.others or {}).pop(version.file_id, None)

    def is_persisted(self, block: int) -> bool:
        """Return whether the group has *block* with the content of the source."""
        return self.version.is_persisted(block)


class Phase(enum.Enum):
    """The phase of a block, changed by `Delivery` alone.

    ========  ==================================================  ===========================
    from      event (method of `Delivery`)                        to
    ========  ==================================================  ===========================
    QUEUED    a reader takes it (`take`)                          SENDING
    SENDING   Kafka has all frames (`sent`)                       SENT
    SENDING   it must be read and compared (`acknowledged`)       QUEUED
    SENDING   the comparison found the block lost (`checked`)     QUEUED
    SENDING,  the attempt failed, was rejected or passed over     QUEUED, or OVER after the
    SENT      (`retry`, `acknowledged`, `look`)                   last attempt
    any       persisted, or its file or version is not sent any   OVER
              more (`acknowledged`, `checked`, `abort`)
    ========  ==================================================  ===========================

    A persisted block that a worker lost is a new `Block`, which is QUEUED.
    """

    QUEUED = enum.auto()  # waits for its first or next attempt
    SENDING = enum.auto()  # a reader sends its frames, or reads it to compare it
    SENT = enum.auto()  # Kafka has all frames, the group has not acknowledged them
    OVER = enum.auto()  # persisted, failed, or not to be sent any more


class Block:
    """One block, until it is persisted or failed."""

    __slots__ = (
        "attempt", "file", "first_offset", "is_check", "last_offset", "number", "partition",
        "passed_at", "phase", "sha256", "tries", "version",
    )  # fmt: skip

    def __init__(self, file: File, number: int, partition: int) -> None:
        self.file = file
        self.version = file.version
        self.number = number
        self.partition = partition
        self.phase = Phase.QUEUED
        self.attempt = 0
        self.tries = 0
        self.sha256 = b""  # of the source; empty until it was read
        self.is_check = False  # acknowledged: it is read and compared, not sent
        self.first_offset = self.last_offset = -1  # below 0: unknown
        self.passed_at: float | None = None  # since when no acknowledgement can come

    @property
    def key(self) -> tuple[str, int]:
        """File id and block number."""
        return self.version.file_id, self.number

    def is_wanted(self, attempt: int) -> bool:
        """Return whether the rest of *attempt* must still be sent."""
        return self.phase is Phase.SENDING and self.attempt == attempt
