"""Gives the watchdog its samples: the state of Faust, and commits and ends from the broker."""

from __future__ import annotations

import logging

from typing import TYPE_CHECKING

from streamapp.errors import ClusterError
from streamapp.kafka import clients, groups, topic_admin
from streamapp.worker import readiness, table_recovery
from streamapp.worker.watchdog import Sample, Watchdog, WatchdogThread, now


if TYPE_CHECKING:
    import asyncio

    from collections.abc import Callable

    from streamapp.protocol.topics import Place
    from streamapp.worker.types import WorkerApp

logger = logging.getLogger(__name__)


class WatchedWorker:
    """A running worker. Used in the watchdog's thread."""

    def __init__(self, app: WorkerApp, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop
        self._admin = clients.admin(app.settings)
        self._group = groups.reader(app.settings, app.settings.group_id)

    def sample(self, *, loop_answered: bool) -> Sample:
        """Return the state now; waits for the broker."""
        app = self._app
        ready = readiness.is_ready(app)
        taken = dict(app.stats.taken)  # read before the commits, which may advance meanwhile
        committed, ends = self._progress() if ready else (None, None)
        return Sample(
            now=now(),
            loop_answered=loop_answered,
            ready=ready,
            holding=app.stats.state != "running",
            taken=taken,
            committed=committed,
            ends=ends,
        )

    def _progress(self) -> tuple[dict[Place, int] | None, dict[Place, int] | None]:
        """Return commits and ends of the assigned partitions; None without an answer."""
        read = {spec.name for spec in topic_admin.specs(self._app.settings)}
        assigned = self._app.consumer.assignment()
        places = [(tp.topic, tp.partition) for tp in assigned if tp.topic in read]
        try:
            return groups.committed(self._group, places), groups.ends(self._admin, places)
        except ClusterError as error:
            logger.debug("watchdog: %s", error)
            return None, None

    def ask_loop(self, answer: Callable[[], object]) -> None:
        """Have the event loop call *answer*."""
        self._loop.call_soon_threadsafe(answer)

    def before_exit(self, reason: str) -> None:
        """Let the next start wipe tables that could not be recovered."""
        if not readiness.is_ready(self._app):
            table_recovery.ask_for_wipe(self._app.settings.tables_dir)
        self._app.stats.hold("watchdog", reason)


def start(app: WorkerApp, loop: asyncio.AbstractEventLoop) -> WatchdogThread:
    """Start the watchdog of *app*."""
    watchdog = Watchdog(
        patience=max(app.settings.watchdog_patience, 2 * app.settings.block_timeout),
        recovery_patience=app.settings.recovery_patience,
    )
    thread = WatchdogThread(WatchedWorker(app, loop), watchdog)
    thread.start()
    return thread
