"""Compares once, after the start, the acknowledged blocks of this machine with its disks.

The start compares them only if a data folder changed (`streamapp.integrity.reconciliation`). It
does not notice, for example, that one file's folder was removed while the worker was down. Here
the missing blocks are found and published as lost. If the comparison fails, the worker continues.
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
    """Publish as lost the blocks that this machine has acknowledged and does not have.

    It does nothing if they were compared at the start.
    """
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
        stop.set()  # the thread that reads ends soon


async def _publish_if_lost(ack: BlockAck) -> bool:
    """Publish that a block is lost, unless it was persisted again; return whether it is lost."""
    async with app.context.locks.of(ack.file_id, ack.block):
        store = app.block_store
        if await asyncio.to_thread(store.stored, ack.file_id, ack.block) is not None:
            return False
        await app.context.publish(inventory.as_lost(ack, reconciliation.LOST))
    return True
