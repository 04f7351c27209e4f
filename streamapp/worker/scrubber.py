"""Reads all stored blocks again, in the background, and takes back those that have rotted.

One reading (a pass) after another, slowly, so that nobody notices. Where it stopped is noted,
so that a worker that is restarted every day comes to an end of its disks all the same. No Faust
here; the agent starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import StoreError
from streamapp.integrity import revoke, verify
from streamapp.integrity.verify import Pace, State, Verdict
from streamapp.units import format_duration


if TYPE_CHECKING:
    import threading

    from collections.abc import Iterator
    from pathlib import Path

    from streamapp.receiver.context import WorkerContext
    from streamapp.store.data_folder import DataFolder

logger = logging.getLogger(__name__)

NOTE_SECONDS: Final = 10.0
"""How often the place is noted: a restart reads so much again."""

_HOUR: Final = 3600.0


class ScrubPosition(msgspec.Struct, kw_only=True):
    """How far the pass that began at *started_at* is: up to the folder *after* of *root*."""

    started_at: float = 0.0
    is_done: bool = True
    root: str = ""
    after: tuple[str, ...] | None = None


class Scrub:
    """The readings of one worker's data folders; *note* keeps the place between two runs."""

    def __init__(self, context: WorkerContext, stop: threading.Event, note: Path) -> None:
        self._context = context
        self._stop = stop
        self._note = note
        self._place = self._noted()
        self._noted_at = time.monotonic()
        self.blocks = 0  # that this pass has read

    async def tell_untold(self) -> None:
        """Tell of the losses that an earlier run found and did not tell.

        Raises:
            StoreError: the quarantine cannot be read.
        """
        for revoked in await asyncio.to_thread(revoke.untold, self._context.store):
            await self._tell(revoked)

    async def run(self) -> None:
        """Begin a pass every ``scrub_every`` hours; a pass that was stopped goes on first."""
        every = self._context.settings.scrub_every * _HOUR
        while True:
            if self._place.is_done:
                now = time.time()  # before it began, when somebody set the clock
                await asyncio.sleep(max(0.0, min(self._place.started_at, now) + every - now))
            try:
                await self.go_on()
            except StoreError as error:
                logger.error("the stored blocks could not be read again: %s", error)  # noqa: TRY400
                self._place.is_done = True  # the next pass, at its time, tries from the start

    async def go_on(self) -> None:
        """Tell what is untold, and read what is left of the pass, or all in a new one.

        Raises:
            StoreError: a data folder could not be looked at; the others were read all the same.
        """
        if self._place.is_done:
            self._place = ScrubPosition(started_at=time.time(), is_done=False)
        await self.tell_untold()
        began, found, failure = time.monotonic(), 0, None
        pace = Pace(self._context.settings.scrub_rate, self._stop)
        for root in self._roots_left():
            verdicts = verify.blocks(root.path, pace, after=self._after(root))
            try:
                while (bad := await asyncio.to_thread(self._next_bad, root, verdicts)) is not None:
                    found += 1
                    await self._take_back(root, bad)
            except StoreError as error:
                failure = error
        if failure is not None:
            raise failure
        if self._stop.is_set():
            return
        self._place.is_done = True
        await asyncio.to_thread(self._write_note)
        seconds = format_duration(time.monotonic() - began)
        logger.info("read %d stored blocks again in %s: %d bad", self.blocks, seconds, found)
        self.blocks = 0

    def _next_bad(self, root: DataFolder, verdicts: Iterator[Verdict]) -> Verdict | None:
        """Read on until a block is bad; a thread's work, and its only one at a time."""
        parts = None
        for verdict in verdicts:
            if parts is not None and verdict.parts != parts:
                self._place.root, self._place.after = str(root.path), parts
                self._write_note(within=NOTE_SECONDS)
            parts = verdict.parts
            self.blocks += 1
            if not verdict.is_good:
                return verdict
        return None

    async def _take_back(self, root: DataFolder, bad: Verdict) -> None:
        log = logger.warning if bad.state is State.FILE_JSON else logger.error
        log("%s is %s: %s", bad.path, bad.state.value, bad.reason)
        settings = self._context.settings
        file_id = bad.file.file_id if bad.file else ""
        async with self._context.locks.of(file_id, bad.block):
            revoked = await asyncio.to_thread(
                lambda: revoke.revoke_block(
                    self._context.store,
                    root,
                    bad,
                    group=settings.group_id,
                    machine=settings.machine_id,
                )
            )
            if revoked is not None:
                self._context.stats.corrupt += 1
                await self._tell(revoked)

    async def _tell(self, revoked: revoke.RevokedBlock) -> None:
        for ack in revoked.acks:
            await self._context.publish(ack)
            logger.error("file %s block %d is lost here: %s", ack.file_id, ack.block, ack.reason)
        await asyncio.to_thread(revoke.told, self._context.store, revoked)

    def _roots_left(self) -> list[DataFolder]:
        roots = sorted(self._context.store.roots, key=lambda root: str(root.path))
        return [root for root in roots if str(root.path) >= self._place.root]

    def _after(self, root: DataFolder) -> tuple[str, ...] | None:
        return self._place.after if str(root.path) == self._place.root else None

    def _noted(self) -> ScrubPosition:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._note.read_bytes(), type=ScrubPosition)
        return ScrubPosition()

    def _write_note(self, *, within: float = 0.0) -> None:
        """Keep the place, unless that was done *within* so many seconds; it may be lost."""
        now = time.monotonic()
        if now - self._noted_at < within:
            return
        self._noted_at = now
        with contextlib.suppress(OSError):
            part = self._note.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(self._place))
            part.replace(self._note)
