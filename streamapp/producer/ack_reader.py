"""Reads the acknowledgements of the group and the status topic, from the first record on.

The acknowledgements record what is delivered: from them, a second run knows which blocks are
missing, and opens no file. The status topic names the files that earlier runs recorded as
complete, and carries the workers' heartbeats.
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

logger = logging.getLogger(__name__)


class AckReader(Follower):
    """Follows both topics with *consumer*, and passes the decoded records to callbacks.

    *on_acks* receives the acknowledgements of *group*. *on_status* receives the files' status
    records until `catch_up` has returned, and the heartbeats of any group at all times.
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
        super().__init__(consumer, places, self._take)

    def catch_up(self, stop: threading.Event) -> None:
        """Read every record that the topics have now.

        Raises:
            ClusterError: the topics cannot be read.
        """
        self.read_to(self.begin(stop), stop)
        self._is_caught_up = True

    def _take(self, messages: list[Message]) -> None:
        if acks := list(self._acks_among(messages)):
            self._on_acks(acks)

    def _acks_among(self, messages: Iterable[Message]) -> Iterable[BlockAck]:
        """Yield the group's acknowledgements among *messages*; pass on the status records."""
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
