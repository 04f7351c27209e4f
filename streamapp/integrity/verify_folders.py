"""Implements `streamapp verify`: reads the data folders of this machine, and reports bad blocks.

Without ``--repair`` it only reads, without a lock or Kafka, also beside a running worker. With it,
bad blocks are revoked as by a worker's scrub, which needs the lock of the folders and a broker.
"""

from __future__ import annotations

import collections
import time

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from streamapp.errors import SourceError
from streamapp.integrity import revoke, verify
from streamapp.integrity.verify import Pace, State, Verdict
from streamapp.kafka import publish, topic_admin
from streamapp.store import BlockStore, walk
from streamapp.units import counted, format_duration, format_size


if TYPE_CHECKING:
    import threading

    from pathlib import Path

    from streamapp.settings import Settings

EXIT_BAD: Final = 1
"""A block is bad: the code that ``fsck``-like tools and cron know. ADR 8 says why not 23."""

EXIT_STOPPED: Final = 130
_PREFIX: Final = "processed_data_"


class Summary(msgspec.Struct, kw_only=True, tag_field="kind", tag="summary"):
    """Totals of all folders; *states* counts the bad blocks by state."""

    blocks: int = 0
    bytes: int = 0
    bad: int = 0
    states: dict[str, int] = {}
    quarantined: int = 0
    asked_for_again: int = 0
    is_whole: bool = True
    seconds: float = 0.0

    def line(self) -> str:
        """Return the text output."""
        counts = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        text = (
            f"{counted(self.blocks, 'block')}, {format_size(self.bytes)}, read in "
            f"{format_duration(self.seconds)}: {counts or 'all good'}"
        )
        if self.quarantined or self.asked_for_again:
            text += (
                f"; {self.quarantined} in quarantine, {self.asked_for_again} told as lost: "
                "the producer's next run sends them"
            )
        return text if self.is_whole else f"{text}; stopped before the end"


class Report(Protocol):
    """Shows the progress and the result; `streamapp.ui.verify_report` has one."""

    def progress(self, done: int, total: int) -> None:
        """Show that *done* of *total* bytes were read."""

    def bad(self, verdict: Verdict) -> None:
        """Report a bad block."""

    def close(self) -> None:
        """Stop showing progress."""

    def finish(self, summary: Summary) -> None:
        """Report the totals."""


def run(
    settings: Settings, *, rate: int, with_repair: bool, report: Report, stop: threading.Event
) -> int:
    """Verify every block of this machine; return the exit code, 0 when all are good.

    Without an explicit ``machine_id``, every machine's folders are read.

    Raises:
        SourceError: there is no data folder.
        StoreError: something could not be read, or a worker has the folder (*with_repair*).
        ClusterError: the records could not be published (*with_repair*).
    """
    machines = folders_of_machines(settings)
    if with_repair:
        topic_admin.check(settings)  # before anything is moved
    total = sum(walk.block_bytes(root) for roots in machines.values() for root in roots)
    summary, began = Summary(states={}), time.monotonic()
    pace, watch = Pace(rate, stop), _Watch(report, summary, total)
    try:
        for machine, roots in machines.items():
            if with_repair:
                _repair(settings, machine, roots, pace, watch)
            else:
                for root in roots:
                    for verdict in verify.blocks(root, pace):
                        watch.note(verdict)
    finally:
        report.close()
    summary.is_whole = not pace.stopped
    summary.seconds = round(time.monotonic() - began, 3)
    report.finish(summary)
    if summary.bad:
        return EXIT_BAD
    return 0 if summary.is_whole else EXIT_STOPPED


class _Watch:
    """Counts verdicts, and shows them."""

    def __init__(self, report: Report, summary: Summary, total: int) -> None:
        self._report, self.summary, self._total = report, summary, total

    def note(self, verdict: Verdict) -> None:
        summary = self.summary
        summary.blocks += verdict.state is not State.FILE_JSON
        summary.bytes += verdict.size
        if not verdict.is_good:
            summary.bad += 1
            counts = collections.Counter(summary.states)
            counts[verdict.state.value] += 1
            summary.states = dict(counts)
            self._report.bad(verdict)
        self._report.progress(summary.bytes, self._total)


def _repair(settings: Settings, machine: str, roots: list[Path], pace: Pace, watch: _Watch) -> None:
    """Verify the folders of *machine*, revoke bad blocks, and publish all their losses."""
    store = BlockStore(roots, min_free=0)
    store.open()
    try:
        unmoved = []
        for root in store.roots:
            for verdict in verify.blocks(root.path, pace):
                watch.note(verdict)
                if verdict.is_good:
                    continue
                group = settings.group_id
                revoked = revoke.revoke_block(store, root, verdict, group=group, machine=machine)
                if revoked is not None and revoked.name:
                    watch.summary.quarantined += 1
                elif revoked is not None:
                    unmoved.append(revoked)
        losses = [*unmoved, *revoke.untold(store)]
        acks = [ack for revoked in losses for ack in revoked.acks]
        if acks:
            watch.summary.asked_for_again += publish.publish_acks(settings, acks)
        for revoked in losses:
            revoke.told(store, revoked)
    finally:
        store.close()


def folders_of_machines(settings: Settings) -> dict[str, list[Path]]:
    """Return the data folders to read, by machine.

    Without an explicit ``machine_id``, every machine's folders are read.

    Raises:
        SourceError: there is no data folder.
    """
    if "machine_id" in settings.model_fields_set:
        roots = settings.data_roots
        missing = [root for root in roots if not root.is_dir()]
        if missing:
            message = f"no data folder {missing[0]}: give --machine-id and --data-dir"
            raise SourceError(message)
    else:
        roots = [
            path
            for folder in settings.data_dir
            for path in sorted(folder.glob(f"{_PREFIX}*"))
            if path.is_dir()
        ]
        if not roots:
            message = f"no data folder {_PREFIX}… in {settings.data_dir[0]}: give --data-dir"
            raise SourceError(message)
    machines: dict[str, list[Path]] = {}
    for root in roots:
        machines.setdefault(root.name.removeprefix(_PREFIX), []).append(root)
    return machines
