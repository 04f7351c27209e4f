"""Finds the records that a group without commits will read before a new delivery.

A group that is new, was away until Kafka deleted its commits, or whose name is mistyped begins at
the beginning of the log. That may be days of other deliveries, so the producer reports it first.
"""

from __future__ import annotations

import contextlib
import logging

from typing import TYPE_CHECKING

from streamapp.errors import ClusterError
from streamapp.kafka import clients, groups
from streamapp.units import counted, format_size


if TYPE_CHECKING:
    from streamapp.kafka.topic_admin import TopicState
    from streamapp.settings import Settings

logger = logging.getLogger(__name__)


def ahead_of(settings: Settings, data_blocks: TopicState) -> str:
    """Return a sentence about the old records that the group will read; empty if none.

    An error of Kafka is only logged: the delivery does not need the answer.
    """
    try:
        records = _unread_by_new_group(settings, data_blocks)
    except ClusterError as error:
        logger.debug("cannot see what group %s will read: %s", settings.group_id, error)
        return ""
    if not records:
        return ""
    size = settings.frame_size
    return (
        f"group {settings.group_id} has no position in topic {data_blocks.name} (it is new, was "
        f"away for long, or --group-id is mistyped): its workers first read all that Kafka still "
        f"holds there, {counted(records, 'record')}, up to {format_size(records * size)} if "
        f"each has at most {format_size(size)}"
    )


def _unread_by_new_group(settings: Settings, data_blocks: TopicState) -> int:
    """Return how many records the topic has; 0 if the group has a commit on it.

    Raises:
        ClusterError: the brokers do not answer, or refuse.
    """
    places = [(data_blocks.name, number) for number in range(data_blocks.partitions)]
    admin = clients.admin(settings)
    starts, ends = groups.starts(admin, places), groups.ends(admin, places)
    records = sum(ends[place] - starts[place] for place in places)
    if not records:  # the group's coordinator, which may be loading, need not be asked
        return 0
    with contextlib.closing(groups.reader(settings, settings.group_id)) as reader:
        return 0 if groups.committed(reader, places) else records
