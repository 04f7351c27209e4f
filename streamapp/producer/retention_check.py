"""Checks before sending whether Kafka's retention could delete blocks before they are read.

Pure code. Kafka deletes records by age and size, read or not. At most the window is unread, or
without a window all missing bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamapp.errors import RetentionError
from streamapp.units import format_duration, format_size


if TYPE_CHECKING:
    from streamapp.kafka.topic_admin import TopicState

SHORT_SECONDS: Final = 3600.0
"""With a shorter retention, a worker that is down for a moment may miss records."""


def check(bytes_wanted: int, topic: TopicState, *, block_size: int, window: int | None) -> str:
    """Return a warning about the retention of *topic*; empty if there is none. Sizes in bytes.

    Raises:
        RetentionError: Kafka may delete blocks before they are read.
    """
    unread = bytes_wanted if window is None else min(bytes_wanted, max(window, block_size))
    # All of a block is in one partition, so a partition holds whole blocks: round up.
    row_bytes = block_size * topic.partitions
    rows = (unread + row_bytes - 1) // row_bytes
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
