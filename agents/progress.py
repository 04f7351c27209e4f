"""Folds acknowledgements and status into the tables.

Kafka delivers at least once, so folding a record twice changes nothing; and a stranger's
record must not end the agent: it would come back after each restart.
"""

from __future__ import annotations

import asyncio
import logging

from typing import TYPE_CHECKING, Final

from agents.guard import is_at_home, is_ours, stop_on_unforeseen
from streamapp import records
from streamapp.app import app
from streamapp.channels import acks, status
from streamapp.errors import BlockMalformedError
from tables.folds import fold_ack, fold_status


if TYPE_CHECKING:
    from collections.abc import Callable

    from faust.types import StreamT

logger = logging.getLogger(__name__)

TABLE_TRIES: Final = 30
TABLE_RETRY_SECONDS: Final = 2.0


@app.agent(acks)
async def fold_acks(stream: StreamT[bytes]) -> None:
    """Fold each acknowledgement of our group into its file's progress."""
    async for event in stream.events():
        app.vitals.took(event.message.topic, event.message.partition)
        with stop_on_unforeseen("folding acknowledgements"):
            if not await is_ours(event):
                continue
            try:
                ack = records.decode_ack(event.value)
            except BlockMalformedError as error:
                logger.warning("passed over a record on %s: %s", acks, error)
                continue
            if ack.group == app.settings.group_id and is_at_home(event, ack):
                await _folded(lambda ack=ack: fold_ack(ack))  # type: ignore[misc]


@app.agent(status)
async def fold_statuses(stream: StreamT[bytes]) -> None:
    """Fold what producers and the machines of our group say of themselves."""
    async for event in stream.events():
        app.vitals.took(event.message.topic, event.message.partition)
        with stop_on_unforeseen("folding status"):
            if not await is_ours(event):
                continue
            try:
                said = records.decode_status(event.value)
            except BlockMalformedError as error:
                logger.warning("passed over a record on %s: %s", status, error)
                continue
            is_of_our_group = getattr(said, "group", app.settings.group_id) == app.settings.group_id
            if is_of_our_group and is_at_home(event, said):
                await _folded(lambda said=said: fold_status(said))  # type: ignore[misc]


async def _folded(fold: Callable[[], None]) -> None:
    """Do *fold*; while the tables cannot be written (a full disk), hold and try again.

    Raises:
        Exception: it failed for a minute on end: the worker stops, and starts anew.
    """
    for tries_left in reversed(range(TABLE_TRIES)):
        try:
            fold()
        except Exception as error:  # RocksDB raises bare exceptions
            if not tries_left:
                raise
            logger.warning("the tables cannot be written: %r", error)
            app.vitals.hold("tables", f"the tables cannot be written: {error}")
            await asyncio.sleep(TABLE_RETRY_SECONDS)
        else:
            app.vitals.release("tables")
            return
