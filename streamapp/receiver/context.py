"""What the receivers of all partitions share: the worker around them, seen from there.

No Faust and no Kafka client: how a record is published, and how the worker is stopped, is given.
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
"""How long Kafka is left alone before a record that it did not take is published again."""

BlockId = tuple[str, int]
"""A block: file id, number."""


class AttemptId(NamedTuple):
    """One attempt of a producer to send a block."""

    file_id: str
    block: int
    attempt: int

    @property
    def block_id(self) -> BlockId:
        """The block that it is an attempt at."""
        return self.file_id, self.block

    def __str__(self) -> str:
        """As it stands in log lines."""
        return f"file {self.file_id} block {self.block}"


class Clock(NamedTuple):
    """Where the time comes from; both in seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class InboundRecord(msgspec.Struct, kw_only=True):
    """One record as it came from the stream; *ack* acknowledges it to Kafka."""

    offset: int
    generation: int | None
    headers: Iterable[tuple[str, bytes]] | None
    key: bytes | None
    value: bytes
    ack: Callable[[], object]
    stamp: float = 0.0


class Claim(NamedTuple):
    """Another machine has a block, by the newest acknowledgement: *sha256* of its bytes."""

    machine: str
    folder: str
    sha256: str


class ClaimLookup(Protocol):
    """Which blocks other machines of the group have."""

    def of(self, file_id: str, block: int) -> Claim | None:
        """Return which other machine has a block, as far as it is known here now."""

    async def catch_up(self) -> bool:
        """Wait a moment until all is known that is acknowledged by now; return whether it is."""


@dataclasses.dataclass(kw_only=True, eq=False)
class WorkerContext:
    """What the receivers of all partitions share in one worker.

    *send* writes a record to its topic, and raises when Kafka did not take it. *on_limit* is
    called once, when as many blocks are persisted as ``--max-blocks`` allows.
    """

    settings: Settings
    store: BlockStore
    stats: WorkerStats
    claims: ClaimLookup
    send: Callable[[BlockAck | Quarantined], Awaitable[None]]
    on_limit: Callable[[], object]
    clock: Clock = dataclasses.field(default_factory=Clock)
    locks: KeyedLock = dataclasses.field(default_factory=KeyedLock)
    without_room: set[str] = dataclasses.field(default_factory=set)
    """The partitions that wait for room: all others give up for them what is idle."""
    begun: int = 0
    """Blocks that were begun, and are persisted or open."""
    persisted: int = 0
    _abandoned: asyncio.Event = dataclasses.field(default_factory=asyncio.Event, init=False)

    async def publish(self, record: BlockAck | Quarantined) -> None:
        """Write *record* to its topic; return when Kafka has it.

        While Kafka does not take it, the worker holds, and it is written again.
        """
        while True:
            try:
                await self.send(record)
            except Exception as error:  # noqa: BLE001 - whatever Kafka's client raises: it is not written
                reason = f"Kafka does not take acknowledgements: {error!r}"
                logger.warning("%s", reason)
                self.stats.hold("acknowledging", reason)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.stats.release("acknowledging")
                return

    @property
    def is_full(self) -> bool:
        """Whether as many blocks are begun as ``--max-blocks`` allows."""
        return self.settings.max_blocks is not None and self.begun >= self.settings.max_blocks

    async def begin_block(self) -> None:
        """Wait until one more block may be begun: ``--max-blocks`` is exact."""
        while self.is_full:
            self.stats.hold("max-blocks", "as many blocks are begun as --max-blocks allows")
            self._abandoned.clear()
            await self._abandoned.wait()
        self.stats.release("max-blocks")
        self.begun += 1

    def abandon_block(self) -> None:
        """Note that a block that was begun is not persisted: another one may begin."""
        self.begun -= 1
        self._abandoned.set()

    def finish_block(self) -> None:
        """Note that a block that was begun is persisted."""
        self.persisted += 1
        if self.persisted == self.settings.max_blocks:
            logger.info("persisted %d blocks (--max-blocks): stopping", self.persisted)
            self.on_limit()
