"""Prepares and runs a worker: topics, data folders, the lock and the port, then `faust worker`.

A plain ``faust -A streamapp.app worker`` is prepared as well. An error is reported in one line
and an exit code, before Faust begins.
"""

from __future__ import annotations

import logging
import time

from typing import TYPE_CHECKING, Any

from streamapp.integrity import reconciliation
from streamapp.kafka import history, topic_admin
from streamapp.kafka.broker_contact import BrokerContact
from streamapp.settings import Settings
from streamapp.store import identity
from streamapp.web import listening
from streamapp.worker import descriptors, table_recovery


if TYPE_CHECKING:
    from streamapp.worker.types import WorkerApp

logger = logging.getLogger(__name__)


def prepare(app: WorkerApp) -> None:
    """Prepare what the worker needs: its port, topics, data folders, the folder of its tables.

    Raises:
        StreamAppError: it cannot be prepared; the message says what to do.
    """
    settings = app.settings
    descriptors.raise_limit()
    if app.conf.web_enabled:
        app.web_sockets = listening.listen(app.conf.web_bind, app.conf.web_port)
    states = topic_admin.ensure(settings, with_changelogs=True)
    has_folders = all(path.exists() for path in settings.data_roots)
    if not has_folders:  # checked before they are created: a refused start creates none
        reconciliation.refuse_if_up(settings)
    app.block_store.open()
    table_recovery.make_usable(settings)
    _start(app, is_alone=not has_folders)
    app.stats.contact = BrokerContact(settings.brokers, time.monotonic)
    data_blocks = states[topic_admin.names(settings).data_blocks]
    if text := history.ahead_of(settings, data_blocks):
        logger.warning("%s", text)
    app.stats.retention_seconds = data_blocks.retention_seconds
    # Faust declares the changelogs again, and would wait for ever if their number of replicas
    # differed.
    app.conf.topic_replication_factor = min(state.replicas for state in states.values())


def _start(app: WorkerApp, *, is_alone: bool) -> None:
    """Publish what changed since the last start; then note the id of this start.

    The id is in the data folders and in every heartbeat. If publishing fails, it is not noted, and
    the next start finds the changes again. *is_alone*: no other worker has this machine id.
    """
    app.is_compared = reconciliation.before_start(app.settings, app.block_store, is_alone=is_alone)
    app.stats.folders = app.block_store.identities
    app.stats.start_id = identity.new_id()
    app.block_store.note_start(app.stats.start_id)


def command_line(*, loglevel: str, web_port: int, web_bind: str) -> list[str]:
    """Return the arguments of `faust` for a worker."""
    return [
        *("-A", "streamapp.app", "worker", "--loglevel", loglevel),
        *("--web-port", str(web_port), "--web-bind", web_bind),
    ]


def run(*, loglevel: str) -> None:
    """Run a worker until it is stopped; the settings come from the environment.

    Raises:
        SystemExit: always, with Faust's exit code or one of this program.
    """
    from faust.cli.faust import cli as faust_cli  # noqa: PLC0415 - Faust is for workers only

    settings = Settings.load()
    arguments: Any = command_line(
        loglevel=loglevel, web_port=settings.web_port, web_bind=settings.web_host
    )
    faust_cli(args=arguments, prog_name="streamapp")
