"""The three tables, stored in RocksDB and rebuilt from their changelogs.

Keys are raw bytes: Faust serializes any other key as JSON, and would hash an id with its quotes
and ask the wrong worker. Rows are raw bytes, encoded by `streamapp.tables.rows`, and replaced
whole, because a change in place does not reach the changelog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamapp.app import app
from streamapp.protocol import topics
from streamapp.worker.application import ROCKSDB_OPTIONS


if TYPE_CHECKING:
    from faust.types import TableT


def _table(name: str, meaning: str) -> TableT[Any, Any]:
    return app.Table(
        name,
        key_type=bytes,
        value_type=bytes,
        partitions=topics.FILE_PARTITIONS,  # as many as the topics that fill them
        help=meaning,
        options=dict(ROCKSDB_OPTIONS),  # a copy: Faust's store takes keys out of it
    )


files = _table(topics.FILES_TABLE, "One row for each file: totals, counters, state.")
block_map = _table(topics.BLOCK_MAP_TABLE, "One bit for each block, in runs of 1,024.")
machines = _table(topics.MACHINES_TABLE, "One row for each machine: its last heartbeat.")
