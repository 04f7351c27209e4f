"""Compares once, beside a worker that has started, what is acknowledged with what is on its disks.

What the start did not notice (one file's folder was removed while the worker was down) is
published as lost; a comparison that fails must never end a worker that works.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from typing import TYPE_CHECKING

from streamapp.app import app
from streamapp.errors import StreamAppError
from streamapp.integrity import inventory, reconciliation


if TYPE_CHECKING:
    from streamapp.protocol.messages import BlockAck

logger = logging.getLogger(__name__)


@app.task  # type: ignore[untyped-decorator]
async def compare_with_acknowledgements() -> None:
    """Publish what this machine is said to have and has not; then end."""
    if app.is_compared:
        return
    stop = threading.Event()
    try:
        missing = await asyncio.to_thread(
            reconciliation.still_missing, app.settings, app.block_store, stop
        )
        lost = [ack for ack in missing if await _publish_if_lost(ack)]
        if lost:
            logger.warning("%d blocks are gone and were published as lost", len(lost))
    except StreamAppError as error:
        logger.error("the acknowledgements could not be compared with the disks: %s", error)  # noqa: TRY400
    finally:
        stop.set()  # the thread that reads ends within a moment


async def _publish_if_lost(ack: BlockAck) -> bool:
    """Publish that a block is lost, unless it has been persisted again; return whether it was."""
    async with app.context.locks.of(ack.file_id, ack.block):
        store = app.block_store
        if await asyncio.to_thread(store.stored, ack.file_id, ack.block) is not None:
            return False
        await app.context.publish(inventory.as_lost(ack, reconciliation.LOST))
    return True
