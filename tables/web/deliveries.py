"""The progress of each producer's newest run.

Pure code. A run is identified by the producer's machine id and the time of its start. Each file
that the run announces belongs to it.
"""

from __future__ import annotations

import heapq

from typing import TYPE_CHECKING, Any, Final

import msgspec

from streamapp.protocol.messages import Count, Label, Seconds


if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamapp.tables.rows import FileRow

MAX_DELIVERIES: Final = 100
"""Most producers that are listed: a record may have any name."""


class Delivery(msgspec.Struct, kw_only=True):
    """The files of one run. *failed* counts failed and changed files."""

    source: Label
    run_at: Seconds
    files: Count = 0
    complete: Count = 0
    failed: Count = 0
    bytes: Count = 0
    persisted_bytes: Count = 0

    def add(self, other: Delivery) -> None:
        """Add the files of *other*, another worker's part of the same run."""
        self.files += other.files
        self.complete += other.complete
        self.failed += other.failed
        self.bytes += other.bytes
        self.persisted_bytes += other.persisted_bytes


class Deliveries:
    """Collects the newest run of each producer."""

    def __init__(self) -> None:
        self._found: dict[str, Delivery] = {}

    def note(self, row: FileRow) -> None:
        """Count the file of *row*, if a run has announced it and it is not superseded."""
        if row.is_superseded:
            return
        newest = self._found.get(row.source)
        if not row.run_at or (newest is not None and newest.run_at > row.run_at):
            return
        if newest is None or newest.run_at < row.run_at:
            newest = self._found[row.source] = Delivery(source=row.source, run_at=row.run_at)
        newest.files += 1
        newest.complete += row.is_complete
        newest.failed += row.state in {"failed", "changed"}
        newest.bytes += row.size
        newest.persisted_bytes += row.persisted_bytes

    def merge(self, part: Iterable[Delivery]) -> None:
        """Add another worker's *part*; an older run of a producer is ignored."""
        for delivery in part:
            known = self._found.get(delivery.source)
            if known is None or known.run_at < delivery.run_at:
                self._found[delivery.source] = delivery
            elif known.run_at == delivery.run_at:
                known.add(delivery)

    @property
    def newest(self) -> list[dict[str, Any]]:
        """The runs as JSON, the newest first."""
        found = heapq.nlargest(
            MAX_DELIVERIES, self._found.values(), key=lambda d: (d.run_at, d.source)
        )
        return [msgspec.to_builtins(delivery) for delivery in found]
