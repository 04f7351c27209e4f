"""Writes frames to disk as blocks, and acknowledges them on ``block-acknowledgments``.

There is one actor for each partition. Faust's own acknowledgement of events is off:
`streamapp.receiver.partition` acknowledges records in offset order once they are done, so that
Kafka delivers all others again after a crash.
"""

from __future__ import annotations

import functools
import os
import signal

from typing import TYPE_CHECKING, Any, cast

from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from streamapp.agents import faust_topics
from streamapp.agents.faust_topics import data_blocks
from streamapp.agents.guard import is_ours, stop_on_unforeseen
from streamapp.app import app
from streamapp.receiver.context import InboundRecord, WorkerContext
from streamapp.receiver.partition import PartitionReceiver


if TYPE_CHECKING:
    from faust.events import Event
    from faust.streams import Stream
    from faust.types import StreamT


EXPIRY_SECONDS = 5.0
"""Seconds between two searches for attempts that are late."""


def stop_worker() -> None:
    """Stop the worker as SIGTERM does: persisted blocks are acknowledged and committed first."""
    os.kill(os.getpid(), signal.SIGTERM)


app.context = WorkerContext(
    settings=app.settings,
    store=app.block_store,
    stats=app.stats,
    claims=app.claims,
    send=faust_topics.publish,
    on_limit=stop_worker,
)


@app.agent(data_blocks, isolated_partitions=True)
async def keep_blocks(stream: StreamT[bytes]) -> None:
    """Receive the records of one partition."""
    receiver: PartitionReceiver | None = None
    manual = cast("Stream[bytes]", stream).noack()  # `StreamT` does not declare it
    try:
        async for event in manual.events():
            with stop_on_unforeseen("keeping blocks"):
                if not await is_ours(event):
                    continue  # Kafka delivers it again
                if receiver is None:
                    receiver = _receiver_for(event.message.tp)
                await receiver.take(_record(cast("Event", event)))
                app.stats.took(event.message.topic, event.message.partition)
    finally:
        if receiver is not None:
            app.receivers.pop(receiver, None)
            receiver.drop()


@app.timer(EXPIRY_SECONDS)  # type: ignore[untyped-decorator]
async def expire_blocks() -> None:
    """Expire attempts that are late, and note when the oldest unfinished record was written."""
    with stop_on_unforeseen("giving up blocks"):
        app.stats.oldest_unread = _oldest_unread()
        if app.session.seconds_until_safe():
            # The process was suspended: its partitions may have been reassigned, so nothing is
            # expired now.
            return
        for receiver in list(app.receivers):
            await receiver.forget_older(app.consumer_generation_id)
            highwater = _highwater(TP(receiver.topic, receiver.partition))
            if highwater is not None:
                await receiver.expire(highwater=highwater)


def _highwater(tp: TP) -> int | None:
    """Return the end of *tp*; None during a rebalance, while it is unknown."""
    try:
        return app.consumer.highwater(tp)
    except (AssertionError, ConsumerNotStarted):  # the first is aiokafka's for a revoked partition
        return None


def _receiver_for(tp: TP) -> PartitionReceiver:
    """Return a new receiver for *tp*, with the committed offset at which it begins to read."""
    positions: Any = cast("Any", app.consumer)._committed_offset  # noqa: SLF001 - a request may wait
    receiver = PartitionReceiver(tp.topic, tp.partition, app.context, committed=positions[tp] or 0)
    app.receivers[receiver] = None
    return receiver


def _oldest_unread() -> float | None:
    stamps = [receiver.safe_stamp for receiver in app.receivers]
    return min((stamp for stamp in stamps if stamp is not None), default=None)


def _record(event: Event) -> InboundRecord:
    """Move the bytes out of *event*, so that the ledger's reference to it does not hold them."""
    message: Any = event.message
    record = InboundRecord(
        offset=message.offset,
        generation=message.generation_id,
        headers=message.headers,
        key=message.key,
        value=message.value or b"",
        ack=functools.partial(message.ack, app.consumer),
        stamp=message.timestamp or 0.0,
    )
    message.value = event.value = None
    message.headers = None
    return record
