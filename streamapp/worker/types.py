"""The application as the other modules of a worker see it.

`streamapp.worker.application` builds it and imports these modules; they import this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import faust


if TYPE_CHECKING:
    import socket

    from collections.abc import Awaitable, Callable

    from streamapp.integrity.claims import Claims
    from streamapp.integrity.machines import SecondWorkers
    from streamapp.protocol.presence import Roster
    from streamapp.receiver.context import WorkerContext
    from streamapp.receiver.partition import PartitionReceiver
    from streamapp.receiver.stats import WorkerStats
    from streamapp.settings import Settings
    from streamapp.store import BlockStore
    from streamapp.worker.pending_writes import PendingWrites
    from streamapp.worker.session_guard import SessionGuard
    from streamapp.worker.watchdog import WatchdogThread


class Report(NamedTuple):
    """The part of a heartbeat whose change is published at once."""

    state: str
    is_ready: bool
    partitions: tuple[int, ...]


class WorkerApp(faust.App):
    """A Faust application with the state that agents, tables and views of one worker share."""

    settings: Settings
    block_store: BlockStore
    context: WorkerContext  # set by `streamapp.agents.blocks`
    receivers: dict[PartitionReceiver, None]
    """The receivers of the assigned partitions: an ordered set."""
    session: SessionGuard
    stats: WorkerStats
    roster: Roster
    second_workers: SecondWorkers
    reported: Report | None = None
    """What the last heartbeat reported."""
    claims: Claims
    pending_writes: PendingWrites
    watchdog: WatchdogThread
    web_sockets: list[socket.socket]
    early_tasks: list[Callable[[], Awaitable[None]]]
    """Tasks that start before the tables are recovered; Faust's timers start after that."""
    is_compared = False
    """Whether all acknowledgements of this machine were compared with its disks at the start."""
