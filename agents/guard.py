"""Ends the worker on unexpected errors, and recognizes events that an agent must not process.

Faust acknowledges an event whose agent raised, and continues: an escaped exception is a lost
block. So nothing escapes: the process ends before the event is acknowledged, its supervisor
starts it again, and Kafka delivers the event again. ADR 2 has the alternatives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys

from typing import TYPE_CHECKING, Final

from streamapp.app import app
from streamapp.protocol.routing import partition_of, routing_key_of


if TYPE_CHECKING:
    from collections.abc import Iterator

    from faust.types import EventT

    from streamapp.protocol.messages import BlockAck, Status

logger = logging.getLogger(__name__)

EXIT_UNFORESEEN: Final = 70
"""EX_SOFTWARE of sysexits.h: an internal error."""


@app.timer(1.0)  # type: ignore[untyped-decorator]
async def look_at_the_clock() -> None:
    """Let the session guard read the clock, so that an idle worker is not taken for suspended."""
    app.session.seconds_until_safe()


@contextlib.contextmanager
def stop_on_unforeseen(doing: str) -> Iterator[None]:
    """End the process if the body raises, before anything is acknowledged; *doing* is logged."""
    try:
        yield
    except Exception:
        logger.critical(
            "unforeseen error while %s; the worker stops before anything is acknowledged",
            doing,
            exc_info=True,
        )
        logging.shutdown()
        sys.stderr.flush()
        os._exit(EXIT_UNFORESEEN)


async def is_ours(event: EventT[bytes]) -> bool:
    """Return whether *event* is of the current generation; wait first until writing is safe.

    If it is not, its partition may have been reassigned, and Kafka delivers the event again. It
    must not be folded: a row that is written to a table whose partition was reassigned cannot be
    undone.
    """
    while seconds_until_safe := app.session.seconds_until_safe():  # noqa: ASYNC110 - it waits for time only
        await asyncio.sleep(seconds_until_safe)
    is_current = event.message.generation_id == app.consumer_generation_id
    return is_current and app.flow_control.is_active()


def is_at_home(event: EventT[bytes], record: BlockAck | Status) -> bool:
    """Return whether *event* came on the partition that its *record* belongs to.

    A forged record, or a record of a topic whose number of partitions was changed, may come on
    another partition. There it would make a second row of the table, on another worker.
    """
    key, message = routing_key_of(record), event.message
    expected = partition_of(key.encode())
    if message.partition != expected:
        logger.warning(
            "passed over a record on %s: %s came on partition %d, expected %d",
            message.topic,
            key,
            message.partition,
            expected,
        )
    return bool(message.partition == expected)
