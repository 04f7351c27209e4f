"""Folds records into the tables: what the agents on the two small topics do.

A fold reads and writes without waiting in between, so no other fold can come between. Each
is called with the event's stream current, which decides the partition that is written.
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
    """Fold an acknowledgement of our group into its run of bits and its file's row."""
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
    # Also what was here before: a crash may have kept it from the changelog, or one of the two.
    block_map[run_key] = run
    files[key] = rows.encode(after)
    if after.is_complete and not before.is_complete:
        logger.info("file %s is complete: %s", ack.file_id, after.name)


def fold_status(status: Status) -> None:
    """Fold what a producer or a worker says into its row."""
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
    """Remove the row of a machine that was forgotten, if it is here."""
    if key in machines:
        del machines[key]


def file_row(key: bytes) -> rows.FileRow | None:
    """Return the row of the file with the id *key*; None when it is not known here."""
    raw = files.get(key)
    return readable(files, key, raw, rows.FileRow) if raw else None


def machine_row(key: bytes) -> Presence | None:
    """Return the row of the machine *key*; None when it is not known here."""
    raw = machines.get(key)
    return readable(machines, key, raw, Presence) if raw else None


def readable(table: TableT[Any, Any], key: bytes, raw: bytes, row_type: type[_T]) -> _T | None:
    """Return the row in *raw*; None, with a warning, when it is damaged.

    A table is a cache: one bad row hides no other one, and is made anew when a record comes.
    """
    try:
        key.decode()
        return rows.decode(raw, row_type)
    except (BlockMalformedError, UnicodeDecodeError) as error:
        logger.warning("passed over a row of table %s, key %r: %s", table.name, key, error)
        return None
