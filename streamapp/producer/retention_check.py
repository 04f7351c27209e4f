"""What Kafka's retention would take before it is read: said before sending, not found after.

Pure code. Kafka deletes what is old or too much, read or not. Between the producer and the
slowest machine lies at most the window, or else all that is to be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamapp.errors import RetentionError
from streamapp.units import format_duration, format_size


if TYPE_CHECKING:
    from streamapp.kafka.topic_admin import TopicState

SHORT_SECONDS: Final = 3600.0
"""Retention below an hour: a machine that is down for a coffee may miss what was sent."""


def check(bytes_wanted: int, topic: TopicState, *, block_size: int, window: int | None) -> str:
    """Return a warning about the topic's retention; empty when there is none to give.

    Raises:
        RetentionError: Kafka may delete what is sent before anybody could read it.
    """
    unread = bytes_wanted if window is None else min(bytes_wanted, max(window, block_size))
    rows = -(-unread // (block_size * topic.partitions))  # a block is in one partition, whole
    share = min(unread, rows * block_size)
    limit = topic.retention_bytes
    if limit is not None and share > limit:
        fitting = limit // block_size * block_size * topic.partitions
        advice = (
            f"Send with --window {format_size(fitting)}"
            if fitting
            else f"Send with a smaller --block-size and --window {format_size(limit)}"
        )
        raise RetentionError(
            f"topic {topic.name} keeps {format_size(limit)} in a partition, and up to "
            f"{format_size(share)} would wait there to be read: Kafka would delete the rest. "
            f"{advice}, raise the topic's retention.bytes, or use --ignore-retention"
        )
    seconds = topic.retention_seconds
    if seconds is not None and seconds < SHORT_SECONDS:
        return (
            f"topic {topic.name} keeps records for {format_duration(seconds)} only: "
            "what a machine has not read by then is deleted, and sent again"
        )
    return ""
