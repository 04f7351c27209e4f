"""Whether a worker can do its work, and which partitions it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from faust.exceptions import ConsumerNotStarted

from streamapp.kafka import topic_admin


if TYPE_CHECKING:
    from faust.tables.manager import TableManager

    from streamapp.worker.types import WorkerApp

RESTORING: Final = "partitions are moving and tables are being restored"
"""The reason that a worker reports while it is not ready."""


def is_ready(app: WorkerApp) -> bool:
    """Return whether the worker has its partitions, and their tables are recovered."""
    recovery = cast("TableManager", app.tables).recovery
    return recovery.completed.is_set() and not app.rebalancing


def can_work(app: WorkerApp) -> bool:
    """Return whether the worker is ready, and is not paused."""
    return is_ready(app) and app.stats.state == "running"


def block_partitions(app: WorkerApp) -> list[int]:
    """Return the assigned partitions of the blocks' topic, sorted; empty before the start."""
    blocks = topic_admin.names(app.settings).data_blocks
    try:
        assigned = app.consumer.assignment()
    except ConsumerNotStarted:
        return []
    return sorted(tp.partition for tp in assigned if tp.topic == blocks)
