"""Makes the heartbeat of this worker, for the status topic and its own views."""

from __future__ import annotations

import asyncio
import time

from typing import TYPE_CHECKING

import streamapp

from streamapp.errors import StoreError
from streamapp.protocol.messages import Heartbeat
from streamapp.worker import readiness
from streamapp.worker.types import Report


if TYPE_CHECKING:
    from streamapp.worker.types import WorkerApp


def report(app: WorkerApp) -> Report:
    """Return the part of the heartbeat whose change is published at once."""
    partitions = tuple(readiness.block_partitions(app))
    return Report(app.stats.state, readiness.is_ready(app), partitions)


async def own_heartbeat(app: WorkerApp) -> Heartbeat:
    """Return a heartbeat with the present state of this worker."""
    stats, settings = app.stats, app.settings
    kept_blocks, kept_bytes = app.block_store.kept
    state, reason = stats.state, stats.reason
    if state == "running" and not readiness.is_ready(app):
        state, reason = "holding", readiness.RESTORING
    return Heartbeat(
        machine=settings.machine_id,
        group=settings.group_id,
        state=state,
        reason=reason,
        started_at=stats.started_at,
        at=time.time(),
        blocks=stats.blocks,
        bytes=stats.bytes,
        repeated=stats.repeated,
        rejected=stats.rejected,
        quarantined=stats.quarantined,
        corrupt=stats.corrupt,
        deleted_unread=stats.deleted_unread,
        retention_left=stats.retention_left,
        rate=stats.rate,
        free_disk=await asyncio.to_thread(_free_disk, app),
        open_blocks=stats.open_blocks,
        partitions=tuple(readiness.block_partitions(app)),
        data_dir=str(settings.data_roots[0]),
        web_url=str(app.conf.canonical_url),
        version=streamapp.__version__,
        folders=stats.folders,
        start_id=stats.start_id,
        interval=settings.heartbeat,
        session_timeout=settings.session_timeout,
        kept_blocks=kept_blocks,
        kept_bytes=kept_bytes,
    )


def _free_disk(app: WorkerApp) -> int:
    try:
        return max(0, app.block_store.free)
    except StoreError:
        return 0
