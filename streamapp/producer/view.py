"""What the producer knows of the topic of the blocks and of the group at one moment. Pure code.

The HTTP views (`docs/views.md`) are a different thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec


if TYPE_CHECKING:
    from streamapp.producer.model import Block


class View(msgspec.Struct, frozen=True):
    """Offsets by partition of the topic of the blocks.

    *committed* are the group's commits (absent: it never committed), *starts* and *ends* are
    those of the log. *is_group_up* is whether members of the group are up; None if unknown.
    """

    committed: dict[int, int]
    starts: dict[int, int]
    ends: dict[int, int]
    is_group_up: bool | None

    @property
    def unread(self) -> int:
        """How many records the group has not committed yet."""
        begun = {n: max(self.committed.get(n, 0), start) for n, start in self.starts.items()}
        return sum(max(0, end - begun.get(n, 0)) for n, end in self.ends.items())

    def why_hopeless(self, block: Block) -> str | None:
        """Return why *block*, which Kafka has, cannot be acknowledged any more; None if it can."""
        committed = self.committed.get(block.partition, -1)
        end = self.ends.get(block.partition, -1)
        # A commit beyond the end belongs to a topic that was deleted and created again.
        if block.last_offset < committed <= end:
            return "the group went on without acknowledging it"
        is_deleted = self.starts.get(block.partition, 0) > block.first_offset >= 0
        # While no machine is up to read it, a copy would be deleted as well.
        if is_deleted and self.is_group_up is not False:
            return "Kafka deleted it before it was acknowledged: raise the topic's retention"
        return None
