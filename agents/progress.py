"""Folds acknowledgements and status into the tables.

Kafka delivers at least once, so folding a record twice changes nothing. A malformed record of an
unknown producer must not end the agent: Kafka would deliver it again after each restart.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Final, cast

from streamapp.agents.faust_topics import acks, status
from streamapp.agents.guard import is_at_home, is_ours, stop_on_unforeseen
from streamapp.app import app
from streamapp.errors import BlockMalformedError
from streamapp.protocol import messages
from streamapp.protocol.routing import partition_of
from streamapp.tables.folds import fold_ack, fold_status, forget_machine


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from faust.streams import Stream
    from faust.types import EventT, StreamT

logger = logging.getLogger(__name__)

TABLE_TRIES: Final = 30
"""Tries to write a row before the worker ends."""

TABLE_RETRY_SECONDS: Final = 2.0
"""Seconds between two tries."""


@app.agent(acks)
async def fold_acks(stream: StreamT[bytes]) -> None:
    """Fold the acknowledgements of this group into the progress of their files."""
    await _fold_all(stream, "folding acknowledgements", _fold_ack)


@app.agent(status)
async def fold_statuses(stream: StreamT[bytes]) -> None:
    """Fold the status records of producers and of this group's machines."""
    await _fold_all(stream, "folding status", _fold_status)


async def _fold_all(
    stream: StreamT[bytes], doing: str, fold: Callable[[EventT[bytes]], Awaitable[None]]
) -> None:
    """Call *fold* for each current event of *stream*, and acknowledge the event afterwards.

    Faust's own acknowledgement of events is off: it includes events of revoked partitions, and its
    compiled form does not call `OrderedCommitConsumer`.
    """
    manual = cast("Stream[bytes]", stream).noack()  # `StreamT` does not declare it
    async for event in manual.events():
        app.stats.took(event.message.topic, event.message.partition)
        with stop_on_unforeseen(doing):
            if await is_ours(event):
                await fold(event)
                event.message.ack(app.consumer)


async def _fold_ack(event: EventT[bytes]) -> None:
    try:
        ack = messages.decode_ack(event.value)
    except BlockMalformedError as error:
        logger.warning("passed over a record on %s: %s", acks, error)
        return
    if ack.group == app.settings.group_id and is_at_home(event, ack):
        await _fold_with_retries(lambda: fold_ack(ack))


async def _fold_status(event: EventT[bytes]) -> None:
    if event.value is None:
        await _forget_machine(event)
        return
    try:
        record = messages.decode_status(event.value)
    except BlockMalformedError as error:
        logger.warning("passed over a record on %s: %s", status, error)
        return
    is_of_our_group = getattr(record, "group", app.settings.group_id) == app.settings.group_id
    if is_of_our_group and is_at_home(event, record):
        await _fold_with_retries(lambda: fold_status(record))


async def _forget_machine(event: EventT[bytes]) -> None:
    """Remove the row of a machine for whose heartbeats a tombstone was written."""
    key = cast("bytes | None", event.key)
    machine = messages.forgotten_machine(key, app.settings.group_id).encode()
    if machine and partition_of(machine) == event.message.partition:
        await _fold_with_retries(lambda: forget_machine(machine))


async def _fold_with_retries(fold: Callable[[], None]) -> None:
    """Call *fold*; while the tables cannot be written (a full disk), pause and retry.

    Raises:
        Exception: it failed for a minute; the worker ends, and its supervisor restarts it.
    """
    for tries_left in reversed(range(TABLE_TRIES)):
        try:
            fold()
        except Exception as error:  # RocksDB raises bare exceptions
            if not tries_left:
                raise
            logger.warning("the tables cannot be written: %r", error)
            app.stats.hold("tables", f"the tables cannot be written: {error}")
            await asyncio.sleep(TABLE_RETRY_SECONDS)
        else:
            app.stats.release("tables")
            return
