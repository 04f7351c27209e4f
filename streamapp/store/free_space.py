"""Divides the free space of a data folder's volume among the blocks that are being written.

An unknown producer may declare any size in a first frame. So a block gets a small advance, and as
much again as it has received, while new bytes arrive. The advances of one source have a limit, and
the reservations of other sources take at most half of the free space. A reservation binds only
blocks that began later, so the oldest one can continue until the volume is full.

Pure code: the volume and the clock are given. Sizes are bytes.
"""

from __future__ import annotations

import threading
import time

from typing import TYPE_CHECKING, Final

from streamapp.errors import StoreFullError
from streamapp.units import KIB, MIB, format_size


if TYPE_CHECKING:
    from collections.abc import Callable

ADVANCE_BYTES: Final = 4 * MIB
"""Reserved for a block without bytes: four frames of the default size."""

SHARE_BYTES: Final = 32 * MIB
"""The advances of one source at most: more than a producer has blocks in flight."""

FRESH_SECONDS: Final = 10.0
"""A block without new bytes for this long has no reservation."""

FIRST_BYTES: Final = MIB
"""Free bytes that a new block needs: a frame of the default size."""

BESIDE_BYTES: Final = 16 * KIB
"""Bytes of a block's metadata, ``file.json`` and folders."""

FILES: Final = 64
"""Free inodes that a new block needs: more than it and its folders take."""


class Reservation:
    """The reservation of one block; *came* is how many of its bytes are on the volume."""

    def __init__(self, source: str, size: int, *, now: float) -> None:
        self.source, self.size = source, size
        self.came = self.in_hand = 0
        self.is_waiting = False
        self.last = now

    @property
    def missing(self) -> int:
        """Bytes that are not on the volume yet."""
        return self.size - self.came

    def is_fresh(self, now: float) -> bool:
        """Return whether the block has a reservation."""
        return self.is_waiting or self.in_hand > 0 or now - self.last < FRESH_SECONDS

    @property
    def advance(self) -> int:
        """Bytes reserved beyond those *in_hand*, before any have arrived."""
        return min(self.missing - self.in_hand, ADVANCE_BYTES)

    @property
    def earned(self) -> int:
        """Bytes reserved beyond the advance, because as many have arrived."""
        return min(self.missing - self.in_hand - self.advance, self.came)


class FreeSpace:
    """The free space of one data folder. Every method may be called from any thread."""

    def __init__(
        self,
        where: str,
        *,
        min_free: int,
        free_bytes: Callable[[], int],
        spare_files: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*free_bytes* and *spare_files* query the volume; *min_free* bytes stay free."""
        self._where = where
        self.min_free = min_free
        self._free_bytes, self._spare_files = free_bytes, spare_files
        self._clock = clock
        self._lock = threading.Lock()
        self._reservations: dict[Reservation, None] = {}  # the oldest first

    def __len__(self) -> int:
        """The number of blocks that are being written."""
        return len(self._reservations)

    @property
    def free(self) -> int:
        """Bytes that may be written, without the reserve and reservations."""
        with self._lock:
            return self._available(Reservation("", 0, now=self._clock()))

    def begin(self, *, source: str, size: int) -> Reservation:
        """Return the reservation of a new block of *size* bytes.

        Raises:
            StoreFullError: there is no room for its first bytes.
        """
        with self._lock:
            reservation = Reservation(source, size, now=self._clock())
            self._check(reservation, min(size, FIRST_BYTES))
            if (files := self._spare_files()) < FILES:
                message = (
                    f"disk full: {max(0, files)} more files may be made in {self._where}, "
                    f"a block needs {FILES}: the volume has no inodes left"
                )
                raise StoreFullError(message)
            self._reservations[reservation] = None
            return reservation

    def take(self, reservation: Reservation, end: int) -> None:
        """Take the space for the block's bytes before *end*, which are about to be written.

        Raises:
            StoreFullError: there is none; the block waits.
        """
        with self._lock:
            wanted = max(0, end - reservation.came)
            reservation.in_hand = 0
            reservation.is_waiting = True
            self._check(reservation, wanted)
            reservation.is_waiting = False
            reservation.in_hand = wanted

    def came(self, reservation: Reservation, end: int) -> None:
        """Record that the block's bytes before *end* are written."""
        with self._lock:
            reservation.in_hand = 0
            if end > reservation.came:
                reservation.came, reservation.last = end, self._clock()

    def release(self, reservation: Reservation) -> None:
        """Remove the reservation: the block is persisted or aborted."""
        with self._lock:
            self._reservations.pop(reservation, None)

    def must_yield(self, reservation: Reservation) -> bool:
        """Return whether the waiting block must be aborted for an older one that waits.

        Only the youngest waiting block must, and only if the oldest one then has space to its
        end: otherwise nothing would be gained.
        """
        with self._lock:
            waiting = [other for other in self._reservations if other.is_waiting]
            if len(waiting) < 2 or waiting[-1] is not reservation:  # noqa: PLR2004 - it and an older one
                return False
            oldest, *younger = waiting
            room = self._free_bytes() - self.min_free - len(self._reservations) * BESIDE_BYTES
            return oldest.missing <= room + sum(other.came for other in younger)

    def check(self, size: int) -> None:
        """Check that *size* bytes beside the blocks may be written.

        Raises:
            StoreFullError: there is no room for them.
        """
        with self._lock:
            self._check(Reservation("", size, now=self._clock()), size)

    def _check(self, reservation: Reservation, wanted: int) -> None:
        available = self._available(reservation) - BESIDE_BYTES * len(
            {**self._reservations, reservation: None}
        )
        if available >= wanted:
            return
        have = format_size(max(0, self._free_bytes()))
        message = (
            f"disk full: {have} free in {self._where}, needs {format_size(wanted)} "
            f"and {format_size(self.min_free)} that stay free"
        )
        if promised := self._promised(reservation):
            message += f"; {format_size(promised)} are promised to blocks that began before"
        raise StoreFullError(message)

    def _available(self, reservation: Reservation) -> int:
        return self._room(reservation) - self._promised(reservation)

    def _room(self, reservation: Reservation) -> int:
        """Return the free bytes, without those that other blocks are writing now."""
        in_hand = sum(other.in_hand for other in self._reservations if other is not reservation)
        return self._free_bytes() - self.min_free - in_hand

    def _promised(self, reservation: Reservation) -> int:
        """Return the bytes reserved for blocks that began before *reservation*."""
        now = self._clock()
        advances, earned = {reservation.source: 0}, {reservation.source: 0}
        for older in self._reservations:
            if older is reservation:
                break
            if older.is_fresh(now):
                advances[older.source] = advances.get(older.source, 0) + older.advance
                earned[older.source] = earned.get(older.source, 0) + older.earned
        promised = {s: min(SHARE_BYTES, advances[s]) + earned[s] for s in advances}
        own = promised.pop(reservation.source)
        return own + min(sum(promised.values()), max(0, self._room(reservation)) // 2)
