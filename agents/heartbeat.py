"""Publishes this worker's heartbeat on ``processing-status``: at intervals, and on changes."""

from __future__ import annotations

import asyncio
import logging

from typing import Any, Final

import msgspec

from streamapp.agents import faust_topics
from streamapp.app import app
from streamapp.worker import readiness
from streamapp.worker.own_heartbeat import own_heartbeat, report


logger = logging.getLogger(__name__)

LAST_WORD_SECONDS: Final = 2.0
"""Seconds that the last heartbeat may take: a broker that fails must not delay the stop."""

LOOK_SECONDS: Final = 2.0
"""Seconds between two checks of the data folders; each is a few calls of stat."""

CHANGE_SECONDS: Final = 1.0
"""Maximum seconds until a change of state or partitions is published."""

_FOLDERS: Final = "data folders"


@app.timer(app.settings.heartbeat)  # type: ignore[untyped-decorator]
async def beat() -> None:
    """Publish one heartbeat; if that fails, the next one follows."""
    await _beat()


async def beat_until_ready() -> None:
    """Publish heartbeats until the worker has its tables for the first time.

    Faust's timers start only then. These heartbeats show why the group is not ready yet.
    """
    while not (app.should_stop or readiness.is_ready(app)):
        await _send()
        await app.sleep(app.settings.heartbeat)


app.early_tasks.append(beat_until_ready)


@app.timer(CHANGE_SECONDS)  # type: ignore[untyped-decorator]
async def beat_on_change() -> None:
    """Publish a heartbeat when the state or the partitions of this worker change."""
    if report(app) != app.reported:
        await _beat()


@app.timer(LOOK_SECONDS)  # type: ignore[untyped-decorator]
async def look_at_folders() -> None:
    """Report when a data folder is moved, replaced or unmounted, and when it is back."""
    misplaced = await asyncio.to_thread(app.block_store.misplaced)
    app.stats.folders = tuple(i for i in app.block_store.identities if i not in misplaced)
    if not misplaced:
        app.stats.release(_FOLDERS)
        return
    reason = "; ".join(misplaced.values())
    if reason not in app.stats.reason:
        logger.error("%s", reason)
    app.stats.hold(_FOLDERS, reason)


@app.on_before_shutdown.connect
async def say_stopped(*_: Any, **__: Any) -> None:  # noqa: ANN401 - Faust's signal type
    """Publish that the worker stops on purpose, so that it is not reported as missing."""
    try:
        last = msgspec.structs.replace(await own_heartbeat(app), state="stopped", partitions=())
        await asyncio.wait_for(faust_topics.publish(last), LAST_WORD_SECONDS)
    except Exception as error:  # noqa: BLE001 - Kafka's clients raise any exception
        logger.debug("no last heartbeat: %r", error)


async def _beat() -> None:
    before, app.reported = app.reported, report(app)
    if before is None or before.partitions != app.reported.partitions:
        _log_partitions(app.reported.partitions)
    await _send()


async def _send() -> None:
    try:
        await faust_topics.publish(await own_heartbeat(app))
    except Exception as error:  # noqa: BLE001 - Kafka's clients raise any exception
        logger.debug("no heartbeat: %r", error)


def _log_partitions(assigned: tuple[int, ...]) -> None:
    """Log the partitions of the worker, each time they change."""
    logger.info(
        "machine %s of group %s reads partitions %s; progress at %s/progress/",
        app.settings.machine_id,
        app.settings.group_id,
        ", ".join(map(str, assigned)) or "none (there are more machines than partitions)",
        str(app.conf.canonical_url).rstrip("/"),
    )
