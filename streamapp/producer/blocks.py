"""One file and one block of a delivery, and how many of a file's blocks are where.

Pure code. Blocks exist only while they are under way, so a file of any size costs what its
unacknowledged blocks cost, and 32 bytes for each acknowledged one.
"""

from __future__ import annotations

import enum

from typing import TYPE_CHECKING, Final, Literal

from streamapp import manifest


if TYPE_CHECKING:
    from streamapp.producer.scan import Source

DIGEST_BYTES: Final = 32
NO_DIGEST: Final = bytes(DIGEST_BYTES)

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


class File:
    """One file. *left* and *busy* count blocks, and are for `Delivery` to change."""

    __slots__ = (
        "blocks", "busy", "digests", "failed", "has_failed", "is_recorded", "left",
        "reason", "source", "state",
    )  # fmt: skip

    def __init__(self, source: Source, blocks: int) -> None:
        self.source = source
        self.blocks = blocks
        self.left = blocks  # neither persisted nor given up
        self.busy = blocks  # those of them that Kafka does not have
        self.state: FileState = "waiting"
        self.failed: dict[int, str] | None = None  # blocks given up, and why
        self.reason = ""  # why it is failed, changed or unreadable
        self.is_recorded = False  # the status topic says already that it is complete
        self.has_failed = False  # the status topic says that an earlier run gave it up
        self.digests: bytearray | None = None

    @property
    def is_dropped(self) -> bool:
        """Return whether no more of it is sent: it is not what was found, or was not asked for."""
        return self.state in {"changed", "unreadable", "passed"}

    def is_persisted(self, block: int) -> bool:
        """Return whether the group has stored *block*."""
        return self.digests is not None and self._digest(block) != NO_DIGEST

    def set_digest(self, block: int, digest: bytes) -> None:
        """Note that *block* is stored with *digest*, or with `NO_DIGEST` that it is not."""
        if self.digests is None:
            self.digests = bytearray(self.blocks * DIGEST_BYTES)
        self.digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES] = digest

    def file_digest(self) -> str:
        """Return the file digest; all blocks must be stored."""
        return manifest.file_digest(self._digest(block) for block in range(self.blocks))

    def _digest(self, block: int) -> bytes:
        return bytes((self.digests or b"")[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES])


class Phase(enum.Enum):
    """Where a block is."""

    RESTING = enum.auto()  # waits for its next attempt, or its first
    SENDING = enum.auto()  # Kafka does not have all frames of the attempt yet
    SENT = enum.auto()  # Kafka has them, the group has not answered
    OVER = enum.auto()  # persisted, given up, or not wanted any more


class Block:
    """One block, until it is persisted or given up."""

    __slots__ = (
        "attempt", "file", "first_offset", "last_offset", "number", "partition",
        "passed_at", "phase", "sha256", "tries",
    )  # fmt: skip

    def __init__(self, file: File, number: int, partition: int) -> None:
        self.file = file
        self.number = number
        self.partition = partition
        self.phase = Phase.RESTING
        self.attempt = 0
        self.tries = 0
        self.sha256 = b""
        self.first_offset = self.last_offset = -1  # below 0: Kafka did not say
        self.passed_at: float | None = None  # since when waiting for it looks hopeless

    @property
    def key(self) -> tuple[str, int]:
        """File id and number."""
        return self.file.source.file_id, self.number

    def is_wanted(self, attempt: int) -> bool:
        """Return whether the rest of *attempt* is still worth sending."""
        return self.phase is Phase.SENDING and self.attempt == attempt
