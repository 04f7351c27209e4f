"""What a worker reports of itself: on the status topic, and in its own views at once."""

from __future__ import annotations

import asyncio
import time

from typing import TYPE_CHECKING, NamedTuple

import streamapp

from streamapp.errors import StoreError
from streamapp.protocol.messages import Heartbeat
from streamapp.worker import watchdog_probe


if TYPE_CHECKING:
    from streamapp.app import StreamApp


class Report(NamedTuple):
    """What others must know at once when it changes."""

    state: str
    is_ready: bool
    partitions: tuple[int, ...]


def report(app: StreamApp) -> Report:
    """Return what the worker of *app* would report now."""
    partitions = tuple(watchdog_probe.block_partitions(app))
    return Report(app.vitals.state, watchdog_probe.is_ready(app), partitions)


async def own_heartbeat(app: StreamApp) -> Heartbeat:
    """Return what the worker of *app* reports of itself now."""
    vitals, settings = app.vitals, app.settings
    kept_blocks, kept_bytes = app.block_store.kept
    state, reason = vitals.state, vitals.reason
    if state == "running" and not watchdog_probe.is_ready(app):
        state, reason = "holding", watchdog_probe.RESTORING
    return Heartbeat(
        machine=settings.machine_id,
        group=settings.group_id,
        state=state,
        reason=reason,
        started_at=vitals.started_at,
        at=time.time(),
        blocks=vitals.blocks,
        bytes=vitals.bytes,
        repeated=vitals.repeated,
        rejected=vitals.rejected,
        quarantined=vitals.quarantined,
        corrupt=vitals.corrupt,
        deleted_unread=vitals.deleted_unread,
        retention_left=vitals.retention_left,
        rate=vitals.rate,
        free_disk=await asyncio.to_thread(_free_disk, app),
        open_blocks=vitals.open_blocks,
        partitions=tuple(watchdog_probe.block_partitions(app)),
        data_dir=str(settings.data_roots[0]),
        web_url=str(app.conf.canonical_url),
        version=streamapp.__version__,
        folders=vitals.folders,
        start_id=vitals.start_id,
        interval=settings.heartbeat,
        session_timeout=settings.session_timeout,
        kept_blocks=kept_blocks,
        kept_bytes=kept_bytes,
    )


def _free_disk(app: StreamApp) -> int:
    try:
        return max(0, app.block_store.free)
    except StoreError:
        return 0
