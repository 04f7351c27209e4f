"""Follows what other workers of the group publish, and reacts to what concerns this one.

A block that is published as lost and is on this machine's disk (a second copy, or a folder that
was moved here) is acknowledged again, so that nobody sends it again. A second worker with this
machine id is reported as a reason to pause, because the two replace each other's heartbeats.

An unknown producer may write any number of such records. So the queue of lost blocks is bounded,
and so is the number of other workers that are distinguished.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time

from typing import TYPE_CHECKING, Final

from streamapp.app import app
from streamapp.errors import StoreError


if TYPE_CHECKING:
    from streamapp.protocol.messages import BlockAck, Heartbeat

logger = logging.getLogger(__name__)

MAX_LOST: Final = 10_000
"""Lost blocks that wait until the disk is searched for them. Further ones are ignored: their
producers send them again."""

LOOK_SECONDS: Final = 1.0
"""Seconds between two checks whether the other worker is silent."""

_MACHINE_ID: Final = "machine id"


@app.task  # type: ignore[untyped-decorator]
async def follow_claims() -> None:
    """Follow the topics in a thread, and acknowledge lost blocks, until the worker stops."""
    loop, stop = asyncio.get_running_loop(), threading.Event()
    lost: asyncio.Queue[BlockAck] = asyncio.Queue(MAX_LOST)

    def in_loop(act: object) -> object:
        return lambda said: loop.call_soon_threadsafe(act, said)  # type: ignore[arg-type]

    thread = threading.Thread(
        target=app.claims.follow,
        args=(stop,),
        kwargs={
            "on_lost": in_loop(functools.partial(_remember, lost)),
            "on_heartbeat": in_loop(_note),
        },
        name="claims",
        daemon=True,
    )
    thread.start()
    try:
        while True:
            await _acknowledge_if_here(await lost.get())
    finally:
        stop.set()  # the thread ends soon


@app.timer(LOOK_SECONDS)  # type: ignore[untyped-decorator]
async def look_at_others() -> None:
    """Remove the reason to pause when the second worker with this machine id is silent."""
    if not app.second_workers.forget_silent(now=time.monotonic()):
        app.stats.release(_MACHINE_ID)


def _remember(lost: asyncio.Queue[BlockAck], ack: BlockAck) -> None:
    """Put *ack* into the queue *lost*, unless it is full."""
    if not lost.full():
        lost.put_nowait(ack)


async def _acknowledge_if_here(lost: BlockAck) -> None:
    """If a block that is published as lost is on this machine's disk, acknowledge it again."""
    settings = app.settings
    try:
        async with app.context.locks.of(lost.file_id, lost.block):
            block = await asyncio.to_thread(app.block_store.stored, lost.file_id, lost.block)
            if block is not None:
                await app.context.publish(
                    block.acknowledgement(
                        group=settings.group_id, machine=settings.machine_id, at=time.time()
                    )
                )
    except StoreError as error:
        logger.warning("not acknowledged again: %s", error)


def _note(heartbeat: Heartbeat) -> None:
    """Report the worker of *heartbeat* as a reason to pause, if it is not this worker."""
    if heartbeat.start_id == app.stats.start_id or heartbeat.state == "stopped":
        return
    if reason := app.second_workers.note(heartbeat, now=time.monotonic()):
        app.stats.hold(_MACHINE_ID, reason)
