"""Reads all stored blocks again, in the background, and revokes those that decayed.

One pass follows another, at a limited rate. The position is written to disk, so that a worker
that is restarted every day still completes its passes. No Faust here; `streamapp.agents.scrub`
starts it.
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
"""Seconds between two writes of the position: a restart reads so much again."""

_HOUR: Final = 3600.0


class ScrubPosition(msgspec.Struct, kw_only=True):
    """The position of the pass that began at *started_at*: after the folder *after* of *root*.

    *started_at* is in seconds since 1970.
    """

    started_at: float = 0.0
    is_done: bool = True
    root: str = ""
    after: tuple[str, ...] | None = None


class Scrub:
    """Scrubs the data folders of one worker; the file *note* has the position between two runs."""

    def __init__(self, context: WorkerContext, stop: threading.Event, note: Path) -> None:
        self._context = context
        self._stop = stop
        self._note = note
        self._position = self._read_note()
        self._noted_at = time.monotonic()
        self.blocks = 0  # read by this pass

    async def publish_unpublished(self) -> None:
        """Publish the losses that an earlier run found and did not publish.

        Raises:
            StoreError: the quarantine cannot be read.
        """
        for revoked in await asyncio.to_thread(revoke.untold, self._context.store):
            await self._publish(revoked)

    async def run(self) -> None:
        """Begin a pass every ``scrub_every`` hours, after the pass that was interrupted."""
        every = self._context.settings.scrub_every * _HOUR
        while True:
            if self._position.is_done:
                now = time.time()  # may be before `started_at`, if the clock was set
                await asyncio.sleep(max(0.0, min(self._position.started_at, now) + every - now))
            try:
                await self.go_on()
            except StoreError as error:
                logger.error("the stored blocks could not be read again: %s", error)  # noqa: TRY400
                self._position.is_done = True  # the next pass begins at its time

    async def go_on(self) -> None:
        """Continue the pass that was interrupted, or run a new one.

        Raises:
            StoreError: a data folder could not be read; the others were read.
        """
        if self._position.is_done:
            self._position = ScrubPosition(started_at=time.time(), is_done=False)
        await self.publish_unpublished()
        began, found, failure = time.monotonic(), 0, None
        pace = Pace(self._context.settings.scrub_rate, self._stop)
        for root in self._roots_left():
            verdicts = verify.blocks(root.path, pace, after=self._after(root))
            try:
                while (bad := await asyncio.to_thread(self._next_bad, root, verdicts)) is not None:
                    found += 1
                    await self._revoke(root, bad)
            except StoreError as error:
                failure = error
        if failure is not None:
            raise failure
        if self._stop.is_set():
            return
        self._position.is_done = True
        await asyncio.to_thread(self._write_note)
        seconds = format_duration(time.monotonic() - began)
        logger.info("read %d stored blocks again in %s: %d bad", self.blocks, seconds, found)
        self.blocks = 0

    def _next_bad(self, root: DataFolder, verdicts: Iterator[Verdict]) -> Verdict | None:
        """Read up to the next bad block; None at the end. Called in one thread at a time."""
        parts = None
        for verdict in verdicts:
            if parts is not None and verdict.parts != parts:
                self._position.root, self._position.after = str(root.path), parts
                self._write_note(within=NOTE_SECONDS)
            parts = verdict.parts
            self.blocks += 1
            if not verdict.is_good:
                return verdict
        return None

    async def _revoke(self, root: DataFolder, bad: Verdict) -> None:
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
                await self._publish(revoked)

    async def _publish(self, revoked: revoke.RevokedBlock) -> None:
        for ack in revoked.acks:
            await self._context.publish(ack)
            logger.error("file %s block %d is lost here: %s", ack.file_id, ack.block, ack.reason)
        await asyncio.to_thread(revoke.told, self._context.store, revoked)

    def _roots_left(self) -> list[DataFolder]:
        roots = sorted(self._context.store.roots, key=lambda root: str(root.path))
        return [root for root in roots if str(root.path) >= self._position.root]

    def _after(self, root: DataFolder) -> tuple[str, ...] | None:
        return self._position.after if str(root.path) == self._position.root else None

    def _read_note(self) -> ScrubPosition:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._note.read_bytes(), type=ScrubPosition)
        return ScrubPosition()

    def _write_note(self, *, within: float = 0.0) -> None:
        """Write the position, unless it was written *within* these seconds; ignore errors."""
        now = time.monotonic()
        if now - self._noted_at < within:
            return
        self._noted_at = now
        with contextlib.suppress(OSError):
            part = self._note.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(self._position))
            part.replace(self._note)
