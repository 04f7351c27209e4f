"""One file and one block of a delivery, and how many of a file's blocks are where.

Pure code. Blocks exist only while they are under way, so a file of any size costs what its
unacknowledged blocks cost, and 32 bytes for each acknowledged one.
"""

from __future__ import annotations

import enum

from typing import TYPE_CHECKING, Literal

from streamapp.producer.version import Version


if TYPE_CHECKING:
    from streamapp.producer.sources.scan import SourceFile

FileState = Literal[
    "waiting",
    "announced",
    "sent",
    "complete",
    "skipped",
    "passed",
    "failed",
    "changed",
    "unreadable",
]


def final_states(*, waits: bool) -> frozenset[FileState]:
    """Return the states in which this run does no more for a file that it announced.

    Without *waits*, a file is final when Kafka has all of it.
    """
    states: set[FileState] = {"complete", "failed", "changed", "unreadable"}
    return frozenset(states if waits else states | {"sent"})


class File:
    """One file. *left* and *busy* count blocks, and are for `Delivery` to change."""

    __slots__ = (
        "blocks", "busy", "failed", "has_failed", "is_given_up", "is_sent", "left",
        "others", "reason", "refused", "source", "state", "version",
    )  # fmt: skip

    def __init__(self, source: SourceFile, blocks: int) -> None:
        self.source = source
        self.blocks = blocks
        self.left = blocks  # neither persisted nor given up
        self.busy = blocks  # those of them that Kafka does not have
        self.state: FileState = "waiting"
        self.failed: dict[int, str] | None = None  # blocks given up, and why
        self.reason = ""  # why it is failed, changed or unreadable
        self.has_failed = False  # the status topic says that an earlier run gave it up
        self.is_given_up = False  # for good, in this run
        self.is_sent = False  # some of it came to the group in this run
        self.version = Version(source.file_id, blocks)
        self.others: dict[str, Version] | None = None  # versions that are known, by file id
        self.refused: set[str] | None = None  # ids whose content is not the source's

    @property
    def file_id(self) -> str:
        """The id that the file is sent under."""
        return self.version.file_id

    @property
    def is_dropped(self) -> bool:
        """Return whether no more of it is sent: it is not what was found, or was not asked for."""
        return self.is_given_up or self.state in {"changed", "unreadable", "passed"}

    @property
    def versions(self) -> list[Version]:
        """All versions that are known, the first that was seen at the front."""
        return [self.version, *(self.others or {}).values()]

    def find(self, file_id: str) -> Version | None:
        """Return the version with this id, if it is known."""
        if file_id == self.version.file_id:
            return self.version
        return (self.others or {}).get(file_id)

    def add(self, version: Version) -> None:
        """Note another version of the file."""
        self.others = (self.others or {}) | {version.file_id: version}

    def choose(self, version: Version) -> None:
        """Let *version* be the one that is compared and sent."""
        if version is not self.version:
            self.add(self.version)
            self.version = version
            (self.others or {}).pop(version.file_id, None)

    def is_persisted(self, block: int) -> bool:
        """Return whether the group has *block* with the content of the source."""
        return self.version.is_persisted(block)

    def file_digest(self) -> str:
        """Return the file digest; all blocks must be stored."""
        return self.version.file_digest()


class Phase(enum.Enum):
    """Where a block is."""

    RESTING = enum.auto()  # waits for its next attempt, or its first
    SENDING = enum.auto()  # Kafka does not have all frames of the attempt yet, or it is read
    SENT = enum.auto()  # Kafka has them, the group has not answered
    OVER = enum.auto()  # persisted, given up, or not wanted any more


class Block:
    """One block, until it is persisted or given up."""

    __slots__ = (
        "attempt", "file", "first_offset", "is_check", "last_offset", "number", "partition",
        "passed_at", "phase", "sha256", "tries", "version",
    )  # fmt: skip

    def __init__(self, file: File, number: int, partition: int) -> None:
        self.file = file
        self.version = file.version
        self.number = number
        self.partition = partition
        self.phase = Phase.RESTING
        self.attempt = 0
        self.tries = 0
        self.sha256 = b""  # of the source, once it was read
        self.is_check = False  # it is acknowledged: read it, and send nothing
        self.first_offset = self.last_offset = -1  # below 0: Kafka did not say
        self.passed_at: float | None = None  # since when waiting for it looks hopeless

    @property
    def key(self) -> tuple[str, int]:
        """File id and number."""
        return self.version.file_id, self.number

    def is_wanted(self, attempt: int) -> bool:
        """Return whether the rest of *attempt* is still worth sending."""
        return self.phase is Phase.SENDING and self.attempt == attempt
