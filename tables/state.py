"""The three tables, kept in RocksDB and rebuilt from their changelogs.

Keys are raw bytes: Faust serializes any other table key as JSON, so ``table_route`` would
hash the id with its quotes and ask the wrong worker. Rows are raw bytes, encoded by
`streamapp.tables.rows`: replaced whole, because a change in place never reaches the changelog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamapp.app import app
from streamapp.kafka import topic_admin
from streamapp.worker.application import ROCKSDB_OPTIONS


if TYPE_CHECKING:
    from faust.types import TableT


def _table(name: str, meaning: str) -> TableT[Any, Any]:
    return app.Table(
        name,
        key_type=bytes,
        value_type=bytes,
        partitions=topic_admin.FILE_PARTITIONS,  # as many as the topics that fill them
        help=meaning,
        options=dict(ROCKSDB_OPTIONS),  # a copy: Faust's store takes keys out of it
    )


files = _table(topic_admin.FILES_TABLE, "One row for each file: totals, counters, state.")
block_map = _table(topic_admin.BLOCK_MAP_TABLE, "One bit for each block, in runs of 1,024.")
machines = _table(topic_admin.MACHINES_TABLE, "One row for each machine: its last heartbeat.")
