"""What the records of all partitions share: the worker around an intake, seen from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import msgspec


if TYPE_CHECKING:
    from streamapp.claims import Claim
    from streamapp.records import BlockAck, Quarantined
    from streamapp.settings import Settings
    from streamapp.store import BlockStore
    from streamapp.turns import Turns
    from streamapp.vitals import Vitals

AttemptKey = tuple[str, int, int]
"""One attempt at a block: file id, block, attempt."""


class Record(msgspec.Struct, kw_only=True):
    """One record as it came from the stream; *ack* acknowledges it to Kafka."""

    offset: int
    generation: int | None
    headers: Iterable[tuple[str, bytes]] | None
    key: bytes | None
    value: bytes
    ack: Callable[[], object]
    stamp: float = 0.0


class OthersClaims(Protocol):
    """Which blocks other machines of the group have."""

    def of(self, file_id: str, block: int) -> Claim | None:
        """Return which other machine has a block, as far as it is known here now."""

    async def catch_up(self) -> bool:
        """Wait a moment until all is known that is acknowledged by now; return whether it is."""


class Desk(Protocol):
    """What the records of all partitions share: the worker around them."""

    settings: Settings
    store: BlockStore
    vitals: Vitals
    turns: Turns
    without_room: set[str]
    """The partitions that wait for room: all others give up for them what is idle."""

    @property
    def claims(self) -> OthersClaims:
        """Which blocks other machines of the group have."""

    async def tell(self, record: BlockAck | Quarantined) -> None:
        """Write *record* to its topic; return when the broker has it."""

    @property
    def is_full(self) -> bool:
        """Whether no further block may be begun until one is given up."""

    async def may_begin(self) -> None:
        """Wait until one more block may be begun."""

    def begun_in_vain(self) -> None:
        """Take back a block that was begun and is not kept."""

    def kept(self) -> None:
        """Note a block that was begun and is kept."""
