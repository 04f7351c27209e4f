"""Folds the records of ``block-acknowledgments`` and ``processing-status`` into the tables.

A fold has no await between reading and writing, so no other fold can run in between. Faust
writes to the table's partition that has the number of the partition of the stream's current event.
"""

from __future__ import annotations

import logging
import time

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from streamapp.errors import BlockMalformedError
from streamapp.protocol.messages import FileStatus, Heartbeat
from streamapp.protocol.presence import Presence
from streamapp.tables import rows
from streamapp.tables.state import block_map, files, machines


if TYPE_CHECKING:
    from faust.types import TableT

    from streamapp.protocol.messages import BlockAck, Status

logger = logging.getLogger(__name__)

_T = TypeVar("_T", bound=msgspec.Struct)


def fold_ack(ack: BlockAck) -> None:
    """Fold an acknowledgement of this group into its run of bits and its file's row.

    A rejection changes nothing. An acknowledgement with other sizes than the file's is ignored.
    """
    if ack.outcome == "rejected":
        return
    key = ack.file_id.encode()
    before = file_row(key) or rows.FileRow()
    is_about = before.is_about(size=ack.file_size, blocks=ack.blocks, block_size=ack.block_size)
    if before.is_acknowledged and not is_about:
        return
    run_key = rows.run_key(ack.file_id, ack.block)
    run = rows.with_bit(block_map.get(run_key, b""), ack)
    after = before.with_ack(ack, run)
    # Written even if unchanged: a crash may have lost one of the two changelog records.
    block_map[run_key] = run
    files[key] = rows.encode(after)
    if after.is_complete and not before.is_complete:
        logger.info("file %s is complete: %s", ack.file_id, after.name)


def fold_status(status: Status) -> None:
    """Fold a producer's status of a file, or a worker's heartbeat, into its row."""
    if isinstance(status, FileStatus):
        key = status.file_id.encode()
        before = file_row(key) or rows.FileRow()
        files[key] = rows.encode(before.with_status(status))
    elif isinstance(status, Heartbeat):
        key, now = status.machine.encode(), time.time()
        known = machine_row(key)
        row = known.with_heartbeat(status, now=now) if known else Presence.first(status, now=now)
        machines[key] = rows.encode(row)


def forget_machine(key: bytes) -> None:
    """Remove the row of a forgotten machine, if this worker has it."""
    if key in machines:
        del machines[key]


def file_row(key: bytes) -> rows.FileRow | None:
    """Return the row of the file with the id *key*; None if this worker has none."""
    raw = files.get(key)
    return readable(files, key, raw, rows.FileRow) if raw else None


def machine_row(key: bytes) -> Presence | None:
    """Return the row of the machine *key*; None if this worker has none."""
    raw = machines.get(key)
    return readable(machines, key, raw, Presence) if raw else None


def readable(table: TableT[Any, Any], key: bytes, raw: bytes, row_type: type[_T]) -> _T | None:
    """Return the row in *raw*; None, with a warning, if it is damaged.

    A table is a cache: the next record replaces a damaged row, and the other rows are shown.
    """
    try:
        key.decode()
        return rows.decode(raw, row_type)
    except (BlockMalformedError, UnicodeDecodeError) as error:
        logger.warning("passed over a row of table %s, key %r: %s", table.name, key, error)
        return None
