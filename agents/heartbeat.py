"""Says on ``processing-status``, every few seconds, how this worker is."""

from __future__ import annotations

import asyncio
import logging
import time

from typing import Any, Final

import msgspec

import streamapp

from streamapp import channels, watching
from streamapp.app import app
from streamapp.errors import StoreError
from streamapp.records import Heartbeat


logger = logging.getLogger(__name__)

LAST_WORD_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 2.0
_FOLDERS: Final = "data folders"

_partitions: list[int] | None = None


@app.timer(app.settings.heartbeat)  # type: ignore[untyped-decorator]
async def beat() -> None:
    """Send one heartbeat; one that is lost does no harm, the next one comes."""
    _say_what_changed()
    try:
        await channels.tell(await heartbeat())
    except Exception as error:  # noqa: BLE001 - Kafka's clients raise what they like
        logger.debug("no heartbeat: %r", error)


@app.timer(LOOK_SECONDS)  # type: ignore[untyped-decorator]
async def look_at_folders() -> None:
    """Say at once when a data folder is moved, replaced or unmounted, and when it is back."""
    misplaced = await asyncio.to_thread(app.block_store.misplaced)
    app.vitals.folders = tuple(i for i in app.block_store.identities if i not in misplaced)
    if not misplaced:
        app.vitals.release(_FOLDERS)
        return
    reason = "; ".join(misplaced.values())
    if reason not in app.vitals.reason:
        logger.error("%s", reason)
    app.vitals.hold(_FOLDERS, reason)


@app.on_before_shutdown.connect
async def say_stopped(*_: Any, **__: Any) -> None:  # noqa: ANN401 - Faust's signal type
    """Say that the worker stops on purpose: it is not missed then."""
    try:
        last = msgspec.structs.replace(await heartbeat(), state="stopped", partitions=())
        await asyncio.wait_for(channels.tell(last), LAST_WORD_SECONDS)
    except Exception as error:  # noqa: BLE001 - Kafka's clients raise what they like
        logger.debug("no last heartbeat: %r", error)


async def heartbeat() -> Heartbeat:
    """Return what this worker says of itself now."""
    vitals, settings = app.vitals, app.settings
    return Heartbeat(
        machine=settings.machine_id,
        group=settings.group_id,
        state=vitals.state,
        reason=vitals.reason[:2000],
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
        free_disk=await asyncio.to_thread(_free_disk),
        open_blocks=vitals.open_blocks,
        partitions=tuple(_partitions or ()),
        data_dir=str(settings.data_roots[0]),
        web_url=str(app.conf.canonical_url),
        version=streamapp.__version__,
        folders=vitals.folders,
        start_id=vitals.start_id,
        interval=settings.heartbeat,
        session_timeout=settings.session_timeout,
    )


def _say_what_changed() -> None:
    """Log once that the worker is ready, and each time its partitions change."""
    global _partitions  # noqa: PLW0603 - what was said last
    assigned = watching.block_partitions(app)
    if assigned != _partitions:
        _partitions = assigned
        logger.info(
            "machine %s of group %s reads partitions %s; progress at %s/progress/",
            app.settings.machine_id,
            app.settings.group_id,
            ", ".join(map(str, assigned)) or "none (there are more machines than partitions)",
            str(app.conf.canonical_url).rstrip("/"),
        )


def _free_disk() -> int:
    try:
        return max(0, app.block_store.free)
    except StoreError:
        return 0
