"""Reads what the workers of the group have answered, from the first record on, and goes on.

The acknowledgements are the record of what is delivered: a second run learns from them what
is missing, without opening a file. The status topic is read as well: up to the present, to
learn which files are recorded there as complete, and from then on for the workers' heartbeats.
"""

from __future__ import annotations

import logging

from typing import TYPE_CHECKING

from streamapp.errors import BlockMalformedError
from streamapp.kafka import topic_admin
from streamapp.kafka.follow import Follower
from streamapp.protocol import messages as message_types
from streamapp.protocol import topics
from streamapp.protocol.messages import FileStatus, Heartbeat


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable, Iterable

    from confluent_kafka import Consumer, Message

    from streamapp.protocol.messages import BlockAck
    from streamapp.protocol.topics import Place

logger = logging.getLogger(__name__)


class AckReader:
    """Follows both topics with *consumer*, and hands on what it reads.

    *on_status* is given the files' status records until `catch_up` has returned, and the
    heartbeats of workers, of any group, all the time.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        group: str,
        on_acks: Callable[[list[BlockAck]], None],
        on_status: Callable[[FileStatus | Heartbeat], None],
        names: topics.Names = topics.PLAIN_NAMES,
    ) -> None:
        self._group = group
        self._names = names
        self._on_acks = on_acks
        self._on_status = on_status
        self._is_caught_up = False
        places = [*topic_admin.file_places(names.acks), *topic_admin.file_places(names.status)]
        self._follower = Follower(consumer, places, self._take)

    def catch_up(self, stop: threading.Event) -> None:
        """Read what is there now.

        Raises:
            ClusterError: the topics cannot be read.
        """
        self._follower.read_to(self._follower.begin(stop), stop)
        self._is_caught_up = True

    def follow(self, stop: threading.Event) -> None:
        """Go on reading until *stop*; a thread's whole life.

        Raises:
            ClusterError: the topics cannot be read any more.
        """
        self._follower.follow(stop)

    def wait_until(self, ends: dict[Place, int], within: float) -> bool:
        """Wait until everything before *ends* was read; return whether it was *within* seconds."""
        return self._follower.wait_until(ends, within)

    def close(self) -> None:
        """Close the consumer, when no thread reads any more."""
        self._follower.close()

    def _take(self, messages: list[Message]) -> None:
        if acks := list(self._acks_among(messages)):
            self._on_acks(acks)

    def _acks_among(self, messages: Iterable[Message]) -> Iterable[BlockAck]:
        """Yield the group's acknowledgements among *messages*; hand on the status records."""
        for message in messages:
            try:
                if message.topic() == self._names.acks:
                    ack = message_types.decode_ack(message.value())
                    if ack.group == self._group:
                        yield ack
                else:
                    self._pass_on(message_types.decode_status(message.value()))
            except BlockMalformedError as error:
                logger.debug("ignored a record on %s: %s", message.topic(), error)

    def _pass_on(self, status: message_types.Status) -> None:
        wanted = (Heartbeat,) if self._is_caught_up else (Heartbeat, FileStatus)
        if isinstance(status, wanted):
            self._on_status(status)
