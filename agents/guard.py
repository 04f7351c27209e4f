"""What keeps an agent from doing harm: an error that nobody foresaw, partitions that are gone.

Faust acknowledges an event whose agent raised, and goes on: an escaped exception is a lost
block. So nothing escapes: the process ends at once, before the event is acknowledged, and
its supervisor starts it again; the event comes again too. ADR 0002 says why not otherwise.
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
    """Let the lease see that time passes: an idle worker is not a frozen one."""
    app.session.seconds_until_safe()


@contextlib.contextmanager
def stop_on_unforeseen(doing: str) -> Iterator[None]:
    """End the process when the body raises: nothing it holds may be acknowledged."""
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
    """Return whether *event* is from a partition that is still ours; if not, it comes again.

    What a worker writes to a table that others fold by now is never taken back.
    """
    while seconds_until_safe := app.session.seconds_until_safe():  # noqa: ASYNC110 - time is all there is to wait for
        await asyncio.sleep(seconds_until_safe)
    is_current = event.message.generation_id == app.consumer_generation_id
    return is_current and app.flow_control.is_active()


def is_at_home(event: EventT[bytes], record: BlockAck | Status) -> bool:
    """Return whether *event* came where the rows are that its *record* speaks of.

    From anywhere else (a forger, a topic with more partitions) it would make a second row, on
    another worker.
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
