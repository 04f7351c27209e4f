"""Builds the Faust application from the settings.

It imports neither agents, tables nor views. Faust finds them by the names in `AUTODISCOVER`
when the worker starts.
"""

from __future__ import annotations

import asyncio

from typing import TYPE_CHECKING, Final, cast

from yarl import URL

from streamapp.integrity.claims import Claims
from streamapp.integrity.machines import SecondWorkers
from streamapp.kafka.clients import BATCH_BYTES
from streamapp.protocol import topics
from streamapp.protocol.presence import Roster
from streamapp.receiver.stats import WorkerStats
from streamapp.store import BlockStore
from streamapp.units import KIB, MIB
from streamapp.web.access import guard
from streamapp.web.client import base_url, in_url
from streamapp.worker import assignor, consumer, logs, shutdown, watchdog_probe
from streamapp.worker.changelog_table import ChangelogTable
from streamapp.worker.flow_control import FETCHED_RECORDS, FlowControl, StreamQueue
from streamapp.worker.pending_writes import PendingWrites
from streamapp.worker.session_guard import SessionGuard
from streamapp.worker.types import WorkerApp
from streamapp.worker.web_server import LimitedWeb


if TYPE_CHECKING:
    import logging

    from faust.types.transports import ConsumerT, TransportT
    from faust.types.web import Web

    from streamapp.settings import Settings

AUTODISCOVER: Final = ("streamapp.tables", "streamapp.agents", "streamapp.worker.faust_commands")

FRAME_BUFFER: Final = 8
"""Frames in one stream's buffer. Faust counts events and not bytes: its default of 4096 would
hold 4 GiB of 1 MiB frames a stream."""

FETCH_BYTES: Final = BATCH_BYTES
"""Maximum bytes of a partition in one fetch: a whole produce batch."""

REQUEST_SECONDS: Final = 60.0
"""Faust requires that the request timeout is longer than the session timeout: by this much."""

HEARTBEAT_SECONDS: Final = 3.0
"""Kafka's default interval of the group's heartbeats. Their responses show that a broker answers,
also to a worker that fetches nothing."""

POLL_SECONDS: Final = 7 * 24 * 3600.0
"""Seconds that a worker may pause, for example on a full disk, without a rebalance."""

LAST_COMMIT_SECONDS: Final = 3.0
"""Seconds for the last commit before a rebalance, which the other workers wait for."""

ROCKSDB_OPTIONS: Final = {
    "block_cache_size": 8 * MIB,  # per partition and table; Faust's default is 2 GiB
    "write_buffer_size": 4 * MIB,
    "max_write_buffer_number": 2,
    "max_open_files": 64,
}


@logs.as_library
class StreamApp(WorkerApp):
    """The Faust application of a worker, with its own transport, queues and web server."""

    async def on_start(self) -> None:
        """Start the watchdog with the application, so that it also watches the recovery."""
        await super().on_start()
        self.watchdog = watchdog_probe.start(self, asyncio.get_running_loop())

    async def _wait_for_table_recovery_completed(self) -> bool:
        """Start the tasks that must run during the recovery; Faust's timers start after it."""
        for task in self.early_tasks:
            self.add_future(task())
        return bool(await super()._wait_for_table_recovery_completed())

    async def on_stop(self) -> None:
        """Stop the watchdog. The data folders stay locked: threads may still write to them."""
        self.stats.stopping = True
        shutdown.end_within()
        self.watchdog.stop()
        await super().on_stop()

    async def _consumer_wait_empty(self, consumer: ConsumerT, logger: logging.Logger) -> None:
        """Commit before a rebalance, so that other workers need not persist the same blocks."""
        await super()._consumer_wait_empty(consumer, logger)
        try:
            await asyncio.wait_for(consumer.commit(), LAST_COMMIT_SECONDS)
        except Exception as error:  # noqa: BLE001 - without it some blocks are persisted twice
            logger.warning("no commit before partitions moved: %r", error)

    def FlowControlQueue(  # noqa: N802 - Faust's name
        self, maxsize: int | None = None, *, clear_on_resume: bool = False
    ) -> StreamQueue:
        """Return a queue that does not block the others."""
        return StreamQueue(
            maxsize=maxsize, flow_control=self.flow_control, clear_on_resume=clear_on_resume
        )

    def _new_web(self) -> Web:
        return cast("Web", LimitedWeb(self))

    def _new_transport(self) -> TransportT:
        return consumer.OrderedCommitTransport(self.conf.broker_consumer, self)


def create_app(settings: Settings) -> StreamApp:
    """Return an application with *settings*; uses neither network nor disk."""
    created = StreamApp(
        settings.group_id,
        version=1,
        broker=[URL(f"kafka://{address}") for address in settings.bootstrap_servers],
        broker_client_id=f"streamapp-{settings.machine_id}",
        store="rocksdb://",
        datadir=str(settings.tables_dir),
        autodiscover=list(AUTODISCOVER),
        Table=ChangelogTable,
        PartitionAssignor=assignor.GroupAssignor,
        topic_disable_leader=True,
        topic_partitions=topics.FILE_PARTITIONS,
        reply_create_topic=False,
        table_standby_replicas=0,
        stream_buffer_maxsize=FRAME_BUFFER,
        stream_wait_empty=False,  # SIGTERM must not wait for a stream
        stream_publish_on_commit=False,
        producer_acks=-1,
        producer_linger=0.0,
        producer_max_request_size=MIB + 64 * KIB,
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=settings.session_timeout,
        broker_request_timeout=settings.session_timeout + REQUEST_SECONDS,
        broker_heartbeat_interval=min(HEARTBEAT_SECONDS, settings.session_timeout / 10),
        broker_rebalance_timeout=max(60.0, settings.session_timeout),
        broker_max_poll_interval=POLL_SECONDS,
        broker_max_poll_records=FETCHED_RECORDS,
        broker_commit_interval=1.0,
        web_bind=settings.web_host,
        web_host=in_url(settings.web_advertise or settings.web_host),  # Faust builds a URL with it
        web_port=settings.web_port,
        canonical_url=base_url(settings),
        web_tables_enabled=False,
        web_router_enabled=False,
        web_application_options={"middlewares": [guard(settings)]},
        worker_redirect_stdouts=False,
        Worker="streamapp.worker.faust_worker.StreamWorker",
        Agent="streamapp.worker.partition_agent.PartitionAgent",
    )
    created.settings = settings
    created.block_store = BlockStore(
        settings.data_roots, min_free=settings.min_free, file_mode=int(settings.file_mode, 8)
    )
    created.stats = WorkerStats()
    created.receivers = {}
    created.session = SessionGuard(settings.session_timeout)
    created.second_workers = SecondWorkers()
    created.roster = Roster(settings.group_id)
    created.claims = Claims(settings, created.roster)
    created.pending_writes = PendingWrites()
    created.web_sockets = []
    created.early_tasks = []
    created.flow_control = FlowControl()
    return created
