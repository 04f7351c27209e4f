"""Acknowledges one partition's records to Faust in offset order; they may be settled in any order.

Pure code: no I/O, no clock. A commit in Kafka is one offset, and all records below it count as
done. So a record is acknowledged only when it and all records before it are settled. Faust must
never see a gap: it would commit past a record that is not acknowledged (faust-streaming#606).
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Ledger:
    """The records of one partition that are not acknowledged yet."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Callable[[], object], float]] = {}  # in offset order
        self._settled: set[int] = set()
        self._last: tuple[int | None, int] = (None, -1)

    def __len__(self) -> int:
        """How many records are entered and not acknowledged."""
        return len(self._waiting)

    @property
    def safe_offset(self) -> int | None:
        """The offset of the oldest record that is not acknowledged; None without one."""
        return next(iter(self._waiting), None)

    @property
    def safe_stamp(self) -> float | None:
        """When the oldest record that is not acknowledged was written; None without one.

        Seconds since 1970.
        """
        return next((stamp for _, stamp in self._waiting.values()), None)

    @property
    def last_offset(self) -> int:
        """The offset of the newest record that was entered; -1 before the first."""
        return self._last[1]

    def enter(
        self,
        offset: int,
        *,
        generation: int | None,
        ack: Callable[[], object],
        stamp: float = 0.0,
    ) -> bool:
        """Enter the record at *offset*; return whether all records before it are void.

        After a rebalance Kafka delivers from the last commit on: the offset does not increase, or
        the *generation* changes. The records that were entered before are void, because those
        that were not committed are delivered again. *stamp* is when the record was written, in
        seconds since 1970.
        """
        last_generation, last_offset = self._last
        void = last_offset >= 0 and (generation != last_generation or offset <= last_offset)
        if void:
            self._clear()
        self._last = (generation, offset)
        self._waiting[offset] = ack, stamp
        return void

    def void_unless(self, generation: int | None) -> bool:
        """Forget all records unless they are of *generation*; return whether they are void.

        `enter` notices a new generation only by a new record. A partition without new records may
        have been assigned to another worker and back.
        """
        void = self.last_offset >= 0 and self._last[0] != generation
        if void:
            self._clear()
        return void

    def settle(self, offsets: Iterable[int]) -> None:
        """Mark *offsets* as done, and acknowledge the records up to the first one that is not done.

        An offset that is acknowledged or void already changes nothing.
        """
        self._settled.update(self._waiting.keys() & set(offsets))
        while self._waiting:
            offset = next(iter(self._waiting))
            if offset not in self._settled:
                return
            self._settled.discard(offset)
            ack, _ = self._waiting.pop(offset)
            ack()

    def _clear(self) -> None:
        self._waiting.clear()
        self._settled.clear()
