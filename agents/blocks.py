"""Turns frames into blocks on disk, and says so on ``block-acknowledgments``.

One actor for each partition. The stream's own acknowledgement is off: `streamapp.intake`
acknowledges in offset order what is done for good, so a crash brings back all the rest.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal

from typing import TYPE_CHECKING, Any, cast

from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from agents.guard import is_ours, lease, stop_on_unforeseen
from streamapp import channels
from streamapp.app import app
from streamapp.channels import data_blocks
from streamapp.claims import Claims
from streamapp.desk import Record
from streamapp.holding import HOLD_SECONDS
from streamapp.intake import Intake
from streamapp.turns import Turns


if TYPE_CHECKING:
    from faust.events import Event
    from faust.streams import Stream
    from faust.types import StreamT

    from streamapp.records import BlockAck, Quarantined

logger = logging.getLogger(__name__)

EXPIRY_SECONDS = 5.0


class WorkerDesk:
    """What the intakes of all partitions share in a running worker."""

    def __init__(self) -> None:
        self.settings = app.settings
        self.store = app.block_store
        self.vitals = app.vitals
        self.turns = Turns()
        self.without_room: set[str] = set()
        self.claims = Claims(self.settings, app.roster)
        self._begun = 0
        self._kept = 0
        self._given_up = asyncio.Event()

    async def tell(self, record: BlockAck | Quarantined) -> None:
        """Write *record* to its topic; while Kafka does not take it, hold and try again."""
        while True:
            try:
                await channels.tell(record)
            except Exception as error:  # noqa: BLE001 - whatever Kafka's client raises: it is not written
                reason = f"Kafka does not take acknowledgements: {error!r}"
                logger.warning("%s", reason)
                self.vitals.hold("acknowledging", reason)
                await asyncio.sleep(HOLD_SECONDS)
            else:
                self.vitals.release("acknowledging")
                return

    @property
    def is_full(self) -> bool:
        """Whether as many blocks are begun as ``--max-blocks`` allows."""
        return self.settings.max_blocks is not None and self._begun >= self.settings.max_blocks

    async def may_begin(self) -> None:
        """Wait until one more block may be begun: ``--max-blocks`` is exact."""
        while self.is_full:
            self.vitals.hold("max-blocks", "as many blocks are begun as --max-blocks allows")
            self._given_up.clear()
            await self._given_up.wait()
        self.vitals.release("max-blocks")
        self._begun += 1

    def begun_in_vain(self) -> None:
        """Take back a block that was begun and is not kept."""
        self._begun -= 1
        self._given_up.set()

    def kept(self) -> None:
        """Note a block that was begun and is kept; after the last one the worker stops."""
        self._kept += 1
        if self._kept == self.settings.max_blocks:
            logger.info("kept %d blocks (--max-blocks): stopping", self._kept)
            os.kill(os.getpid(), signal.SIGTERM)


_intakes: dict[Intake, None] = {}


@functools.cache
def desk() -> WorkerDesk:
    """Return the worker's one desk; made on first use, when there is an event loop."""
    return WorkerDesk()


@app.agent(data_blocks, isolated_partitions=True)
async def keep_blocks(stream: StreamT[bytes]) -> None:
    """Read one partition; acknowledge in offset order what is done for good."""
    intake: Intake | None = None
    manual = cast("Stream[bytes]", stream).noack()  # `StreamT` does not declare it
    try:
        async for event in manual.events():
            with stop_on_unforeseen("keeping blocks"):
                if not await is_ours(event):
                    continue  # it comes again
                if intake is None:
                    intake = _intake_for(event.message.tp)
                await intake.take(_record(cast("Event", event)))
                app.vitals.took(event.message.topic, event.message.partition)
    finally:
        if intake is not None:
            _intakes.pop(intake, None)
            intake.drop()


@app.timer(EXPIRY_SECONDS)  # type: ignore[untyped-decorator]
async def expire_blocks() -> None:
    """Give up blocks whose producer died."""
    with stop_on_unforeseen("giving up blocks"):
        app.vitals.oldest_unread = _oldest_unread()
        if lease.doubt():
            return  # frozen and woken: what no frame came of may be in other hands
        for intake in list(_intakes):
            await intake.forget_older(app.consumer_generation_id)
            highwater = _highwater(TP(intake.topic, intake.partition))
            if highwater is not None:
                await intake.expire(highwater=highwater)


def _highwater(place: TP) -> int | None:
    """Return where *place* ends now; None while partitions move, and that is not known."""
    try:
        return app.consumer.highwater(place)
    except (AssertionError, ConsumerNotStarted):  # aiokafka's word for "no longer ours"
        return None


def _intake_for(place: TP) -> Intake:
    """Return a new intake, which is told where the group's commit was when we got *place*."""
    positions: Any = cast("Any", app.consumer)._committed_offset  # noqa: SLF001 - asking anew may wait
    intake = Intake(place.topic, place.partition, desk(), committed=positions[place] or 0)
    _intakes[intake] = None
    return intake


def _oldest_unread() -> float | None:
    stamps = [intake.safe_stamp for intake in _intakes]
    return min((stamp for stamp in stamps if stamp is not None), default=None)


def _record(event: Event) -> Record:
    """Take the bytes out of *event*: what the ledger keeps of it must not hold them."""
    message: Any = event.message
    record = Record(
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
