"""Shares what is free on a data folder's volume among the blocks that are being written.

A block declares its size in its first frame, and anybody may write one. So no size is believed:
a block is promised a small advance and as much again as came of it, while new bytes keep coming.
The advances of one source have a limit, and what other sources are promised is at most half of
what is free. A promise binds only the blocks that began later: so the oldest one can go on until
the volume is full.

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
"""What is promised to a block of which nothing has come: four frames of the default size."""

SHARE_BYTES: Final = 32 * MIB
"""The advances of one source at most: more than a producer of ours has blocks on their way."""

FRESH_SECONDS: Final = 10.0
"""A block of which nothing new came for so long is promised nothing."""

FIRST_BYTES: Final = MIB
"""What must be free for a block to begin: a frame of the default size."""

BESIDE_BYTES: Final = 16 * KIB
"""What a block takes beside its bytes: its metadata, ``file.json`` and folders."""

FILES: Final = 64
"""Inodes that must be free for a block to begin: more than it and its folders take."""


class Reservation:
    """One block that is being written; *came* is how many of its bytes are on the volume."""

    def __init__(self, source: str, size: int, *, now: float) -> None:
        self.source, self.size = source, size
        self.came = self.in_hand = 0
        self.is_waiting = False
        self.last = now

    @property
    def missing(self) -> int:
        """Bytes that have not come."""
        return self.size - self.came

    def is_fresh(self, now: float) -> bool:
        """Return whether something is promised to the block."""
        return self.is_waiting or self.in_hand > 0 or now - self.last < FRESH_SECONDS

    @property
    def advance(self) -> int:
        """Bytes beyond those *in_hand* that it is promised without more."""
        return min(self.missing - self.in_hand, ADVANCE_BYTES)

    @property
    def earned(self) -> int:
        """Bytes beyond the advance that it is promised because as many came."""
        return min(self.missing - self.in_hand - self.advance, self.came)


class FreeSpace:
    """The room of one data folder. Every method may be called from any thread."""

    def __init__(
        self,
        where: str,
        *,
        min_free: int,
        free_bytes: Callable[[], int],
        spare_files: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*free_bytes* and *spare_files* ask the volume; *min_free* bytes of it stay free."""
        self._where = where
        self.min_free = min_free
        self._free_bytes, self._spare_files = free_bytes, spare_files
        self._clock = clock
        self._lock = threading.Lock()
        self._reservations: dict[Reservation, None] = {}  # the oldest first

    def __len__(self) -> int:
        """How many blocks are being written."""
        return len(self._reservations)

    @property
    def free(self) -> int:
        """Bytes that may be written: less what must stay free and what is promised."""
        with self._lock:
            return self._available(Reservation("", 0, now=self._clock()))

    def begin(self, *, source: str, size: int) -> Reservation:
        """Return the claim of a block of *size* bytes, of which nothing came.

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
        """Take the room for the block's bytes before *end*, which are written now.

        Raises:
            StoreFullError: there is none; the block waits for it.
        """
        with self._lock:
            wanted = max(0, end - reservation.came)
            reservation.in_hand = 0
            reservation.is_waiting = True
            self._check(reservation, wanted)
            reservation.is_waiting = False
            reservation.in_hand = wanted

    def came(self, reservation: Reservation, end: int) -> None:
        """Note that the block's bytes before *end* are written."""
        with self._lock:
            reservation.in_hand = 0
            if end > reservation.came:
                reservation.came, reservation.last = end, self._clock()

    def release(self, reservation: Reservation) -> None:
        """Note that the block is persisted or aborted."""
        with self._lock:
            self._reservations.pop(reservation, None)

    def must_yield(self, reservation: Reservation) -> bool:
        """Return whether the block, which waits, is in the way of an older one that waits.

        Only the youngest is, and only when the older one has room to its end without it: where
        nobody could go on, all keep what they have.
        """
        with self._lock:
            waiting = [other for other in self._reservations if other.is_waiting]
            if len(waiting) < 2 or waiting[-1] is not reservation:  # noqa: PLR2004 - it and an older one
                return False
            oldest, *younger = waiting
            room = self._free_bytes() - self.min_free - len(self._reservations) * BESIDE_BYTES
            return oldest.missing <= room + sum(other.came for other in younger)

    def check(self, size: int) -> None:
        """Look whether *size* bytes may be written that are no block.

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
        """Return what is free, less what others are writing at this moment."""
        in_hand = sum(other.in_hand for other in self._reservations if other is not reservation)
        return self._free_bytes() - self.min_free - in_hand

    def _promised(self, reservation: Reservation) -> int:
        """Return what is promised to the blocks that began before *reservation*."""
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
