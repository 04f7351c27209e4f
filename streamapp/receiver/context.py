"""What the tasks of a worker share: settings, store, statistics, locks, and how to publish.

This module knows neither Faust nor a Kafka client: `WorkerContext` is given the functions that
publish a record and stop the worker.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from streamapp.receiver.keyed_lock import KeyedLock


if TYPE_CHECKING:
    from streamapp.protocol.messages import BlockAck, Quarantined
    from streamapp.receiver.stats import WorkerStats
    from streamapp.settings import Settings
    from streamapp.store import BlockStore

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 2.0
"""Seconds until a record that Kafka did not accept is published again."""

BlockId = tuple[str, int]
"""A block: file id, number."""


class AttemptId(NamedTuple):
    """One attempt of a producer to send a block."""

    file_id: str
    block: int
    attempt: int

    @property
    def block_id(self) -> BlockId:
        """The block that this is an attempt at."""
        return self.file_id, self.block

    def __str__(self) -> str:
        """Return file and block, as log lines show them."""
        return f"file {self.file_id} block {self.block}"


class Clock(NamedTuple):
    """Two clocks, both in seconds: one that only increases, and one since 1970."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class InboundRecord(msgspec.Struct, kw_only=True):
    """One record of a partition.

    *ack* acknowledges it to Faust, which may commit its offset then. *stamp* is when it was
    written, in seconds since 1970.
    """

    offset: int
    generation: int | None
    headers: Iterable[tuple[str, bytes]] | None
    key: bytes | None
    value: bytes
    ack: Callable[[], object]
    stamp: float = 0.0


class Claim(NamedTuple):
    """Another machine has a block, by its newest acknowledgement; *sha256* in hex."""

    machine: str
    folder: str
    sha256: str


class ClaimLookup(Protocol):
    """Looks up which blocks other machines of the group have persisted."""

    def of(self, file_id: str, block: int) -> Claim | None:
        """Return which other machine has the block; None when none is known."""

    async def catch_up(self) -> bool:
        """Read the acknowledgements up to now; return whether that succeeded within seconds."""


@dataclasses.dataclass(kw_only=True, eq=False)
class WorkerContext:
    """What the receivers of all partitions, the scrubber and the agents of one worker share.

    *send* publishes a record, and raises when Kafka did not accept it. *on_limit* is called once,
    when as many blocks are persisted as ``--max-blocks`` allows.
    """

    settings: Settings
    store: BlockStore
    stats: WorkerStats
    claims: ClaimLookup
    send: Callable[[BlockAck | Quarantined], Awaitable[None]]
    on_limit: Callable[[], object]
    clock: Clock = dataclasses.field(default_factory=Clock)
    locks: KeyedLock = dataclasses.field(default_factory=KeyedLock)
    without_space: set[str] = dataclasses.field(default_factory=set)
    """Partitions that are paused because a disk is full; while there is one, all partitions abort
    idle blocks."""
    begun: int = 0
    """Blocks that are open or persisted, for ``--max-blocks``."""
    persisted: int = 0
    """Blocks that are persisted, for ``--max-blocks``."""
    _abandoned: asyncio.Event = dataclasses.field(default_factory=asyncio.Event, init=False)

    async def publish(self, record: BlockAck | Quarantined) -> None:
        """Publish *record*; return when Kafka has it.

        While Kafka does not accept it, the worker reports that it is paused, and retries.
        """
        while True:
            try:
                await self.send(record)
            except Exception as error:  # noqa: BLE001 - Kafka's clients raise any exception
                reason = f"Kafka does not take acknowledgements: {error!r}"
                logger.warning("%s", reason)
                self.stats.hold("acknowledging", reason)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.stats.release("acknowledging")
                return

    @property
    def is_full(self) -> bool:
        """Whether as many blocks are open or persisted as ``--max-blocks`` allows."""
        return self.settings.max_blocks is not None and self.begun >= self.settings.max_blocks

    async def begin_block(self) -> None:
        """Wait until ``--max-blocks`` allows one more block, and count it."""
        while self.is_full:
            self.stats.hold("max-blocks", "as many blocks are begun as --max-blocks allows")
            self._abandoned.clear()
            await self._abandoned.wait()
        self.stats.release("max-blocks")
        self.begun += 1

    def abandon_block(self) -> None:
        """Note that a block that was begun is aborted: another one may begin."""
        self.begun -= 1
        self._abandoned.set()

    def finish_block(self) -> None:
        """Note that a block that was begun is persisted."""
        self.persisted += 1
        if self.persisted == self.settings.max_blocks:
            logger.info("persisted %d blocks (--max-blocks): stopping", self.persisted)
            self.on_limit()
