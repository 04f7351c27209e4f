"""Follows the group's acknowledgements and heartbeats: which blocks other machines have.

A machine may die after it acknowledged a block and before its commit. Then the block's frames are
delivered again to another machine, which need not write a second copy. Only the newest claims are
in memory; a block whose claim was dropped is written a second time, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from streamapp.errors import BlockMalformedError, ClusterError
from streamapp.integrity import inventory, machines
from streamapp.kafka import clients, groups, topic_admin
from streamapp.kafka.follow import Follower
from streamapp.protocol import messages
from streamapp.protocol.messages import Heartbeat
from streamapp.receiver.context import Claim


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable

    from confluent_kafka import Message
    from confluent_kafka.admin import AdminClient

    from streamapp.protocol.messages import BlockAck
    from streamapp.protocol.presence import Roster
    from streamapp.protocol.topics import Place
    from streamapp.settings import Settings

logger = logging.getLogger(__name__)

MAX_CLAIMS: Final = 100_000
"""Claims in memory at most: about 40 MiB."""

LOOK_BACK: Final = 50_000
"""Records of each partition that are read at the start; they include redelivered blocks."""

HEARTBEATS_BACK: Final = 1000
"""Records of each partition that are read for the machines' last heartbeats."""

CONFIRM_SECONDS: Final = 3.0
"""Seconds that a block waits for the newest acknowledgements at most."""

AGAIN_SECONDS: Final = 5.0
"""Seconds after a failure until the topics are followed again."""

_TICK_SECONDS: Final = 0.05  # how often `catch_up` looks whether the thread follows yet


class Claims:
    """The claims of other machines, kept up to date by a thread.

    The same thread notes in *roster* which machines of the group are heard.
    """

    def __init__(self, settings: Settings, roster: Roster) -> None:
        self._settings = settings
        self._roster = roster
        self._on_lost: Callable[[BlockAck], object] = _ignore
        self._on_heartbeat: Callable[[Heartbeat], object] = _ignore
        self._claims: dict[tuple[str, int], Claim] = {}
        self._lost: dict[tuple[str, int], BlockAck] = {}
        self._follower: Follower | None = None
        self._is_caught_up = False
        self._is_stale = False  # of a topic that was deleted, or lost its newest records
        # A thread of its own: while Kafka is slow to answer, nobody else waits for one.
        self._asking = ThreadPoolExecutor(1, "claims-ask")

    @functools.cached_property
    def _admin(self) -> AdminClient:
        return clients.admin(self._settings)

    def follow(
        self,
        stop: threading.Event,
        *,
        on_lost: Callable[[BlockAck], object],
        on_heartbeat: Callable[[Heartbeat], object],
    ) -> None:
        """Follow until *stop*, in a thread of its own; start again after errors.

        *on_lost* is given the records that revoke a block and are the newest of it,
        *on_heartbeat* every new heartbeat of this machine id; both in this thread.
        """
        self._on_lost, self._on_heartbeat = on_lost, on_heartbeat
        while not stop.is_set():
            try:
                self._follow(stop)
            except ClusterError as error:
                logger.warning("what other machines have cannot be followed now: %s", error)
                stop.wait(AGAIN_SECONDS)

    def of(self, file_id: str, block: int) -> Claim | None:
        """Return the claim of another machine on a block, if one is known."""
        return self._claims.get((file_id, block))

    async def catch_up(self) -> bool:
        """Wait until all acknowledgements up to now are read; return whether they are.

        It waits for `CONFIRM_SECONDS` at most.
        """
        loop = asyncio.get_running_loop()
        asking = loop.run_in_executor(self._asking, self._catch_up)
        try:
            return await asyncio.wait_for(asking, CONFIRM_SECONDS)
        except TimeoutError:
            return False

    def take(self, ack: BlockAck) -> None:
        """Take the next acknowledgement."""
        if ack.group != self._settings.group_id or ack.outcome == "rejected":
            return
        key = ack.file_id, ack.block
        self._claims.pop(key, None)
        self._lost.pop(key, None)
        if ack.outcome == "lost":
            self._lost[key] = ack
        elif ack.machine != self._settings.machine_id:
            self._claims[key] = Claim(ack.machine, ack.folder, ack.sha256)
            if len(self._claims) > MAX_CLAIMS:
                del self._claims[next(iter(self._claims))]
        if len(self._lost) > MAX_CLAIMS:
            del self._lost[next(iter(self._lost))]

    def _follow(self, stop: threading.Event) -> None:
        names = topic_admin.names(self._settings)
        look_back = dict.fromkeys(self._ack_places(), LOOK_BACK)
        look_back |= dict.fromkeys(topic_admin.file_places(names.status), HEARTBEATS_BACK)
        follower = Follower(clients.consumer(self._settings), look_back, self._take_all)
        try:
            self._is_caught_up = self._is_stale = False
            self._claims.clear()
            follower.read_to(follower.begin(stop, look_back=look_back), stop)
            self._is_caught_up = True
            self._follower = follower
            self._hand_on_lost()
            while not (stop.is_set() or self._is_stale):
                follower.read_some()
        finally:
            self._follower = None
            follower.close()

    def _catch_up(self) -> bool:
        deadline = time.monotonic() + CONFIRM_SECONDS
        while (follower := self._follower) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_TICK_SECONDS)
        read = follower.positions
        try:
            ends = groups.ends(self._admin, self._ack_places())
        except ClusterError as error:
            logger.debug("%s", error)
            return False
        if any(read[place] > end for place, end in ends.items()):
            self._is_stale = True
            return False
        return follower.wait_until(ends, max(0.0, deadline - time.monotonic()))

    def _ack_places(self) -> list[Place]:
        name = topic_admin.names(self._settings).acks
        return topic_admin.file_places(name)

    def _take_all(self, messages: list[Message]) -> None:
        for message in messages:
            if message.topic() == topic_admin.names(self._settings).acks:
                if ack := inventory.ack_in(message):
                    self.take(ack)
            else:
                self._take_heartbeat(message)
        if self._is_caught_up:
            self._hand_on_lost()

    def _take_heartbeat(self, message: Message) -> None:
        if message.value() is None:
            self._roster.forget(messages.forgotten_machine(message.key(), self._settings.group_id))
            return
        try:
            status = messages.decode_status(message.value())
        except BlockMalformedError:
            return
        if not isinstance(status, Heartbeat):
            return
        self._roster.receive(status, now=time.time())
        # The last heartbeat of this worker's earlier run is no second worker.
        if self._is_caught_up and machines.is_of(status, self._settings):
            self._on_heartbeat(status)

    def _hand_on_lost(self) -> None:
        for ack in self._lost.values():
            self._on_lost(ack)
        self._lost.clear()


def _ignore(_: object) -> None:
    """Do nothing: `Claims.follow` was not called yet."""
