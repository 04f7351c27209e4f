"""What a run observes of the brokers and the group, and the reason to wait that follows from it."""

from __future__ import annotations

import time

from typing import TYPE_CHECKING, Any

from streamapp.kafka.broker_contact import STATISTICS_SECONDS, BrokerContact
from streamapp.kafka.connection_errors import ConnectionErrors
from streamapp.producer import waiting
from streamapp.protocol.presence import Roster


if TYPE_CHECKING:
    from streamapp.kafka.topic_admin import TopicState
    from streamapp.producer.progress import ProgressTracker
    from streamapp.producer.view import View
    from streamapp.protocol.messages import Heartbeat
    from streamapp.protocol.presence import Reason
    from streamapp.settings import Settings


class ClusterObserver:
    """Collects broker contact, heartbeats and views from several threads."""

    def __init__(self, settings: Settings, data_blocks: TopicState, *, waits: bool) -> None:
        """Without *waits*, the run reads no acknowledgements: brokers and workers are unknown."""
        self._group = settings.group_id
        self._data_blocks = data_blocks
        self._waits = waits
        self._contact = BrokerContact(settings.brokers, time.monotonic)
        self._errors = ConnectionErrors()
        self._roster = Roster(settings.group_id)
        self.view: View | None = None

    def consumer_settings(self) -> dict[str, Any]:
        """Return librdkafka's settings for the consumer whose connections are observed."""
        return {
            "statistics.interval.ms": round(STATISTICS_SECONDS * 1000),
            "stats_cb": self._contact.note_statistics,
            "error_cb": self._errors.note,
        }

    def note_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Take the *heartbeat* of a worker of any group."""
        self._roster.receive(heartbeat, now=time.time())

    def reason_to_wait(self, progress: ProgressTracker, now: float) -> Reason | None:
        """Return why the delivery waits at *now* (monotonic); None while it does not."""
        view = self.view
        return waiting.reason(
            waiting.GroupSnapshot(
                no_broker=self._broker_silence() if self._waits else "",
                group=self._group,
                is_group_up=view.is_group_up if view is not None else None,
                unread=view.unread if view is not None else None,
                machines=self._roster.machines if self._waits else (),
                topic=self._data_blocks.name,
                partitions=self._data_blocks.partitions,
                unsent=progress.unsent_seconds(now),
                unpersisted=progress.unpersisted_seconds(now),
                waits=self._waits,
                now=time.time(),
            )
        )

    def _broker_silence(self) -> str:
        """Return that no broker answers, with the cause if it is known; empty while one does."""
        silence, cause = self._contact.reason, self._errors.reason
        return f"{silence} ({cause})" if silence and cause else silence
