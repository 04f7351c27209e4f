"""What `streamapp verify` does: reads the data folders of this machine, and says what is bad.

Without ``--repair`` it only reads: no lock, no Kafka, nothing changes, beside a running worker
as well. With it, bad blocks are taken back as a worker's scrub does it, which needs the folders
for itself and a broker that takes the word.
"""

from __future__ import annotations

import collections
import os
import sys
import time

from typing import IO, TYPE_CHECKING, Final

import msgspec

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from streamapp.errors import SourceError
from streamapp.integrity import reacknowledge, revoke, verify
from streamapp.integrity.verify import Pace, State, Verdict
from streamapp.kafka import topic_admin
from streamapp.protocol.filenames import printable
from streamapp.store import BlockStore, metadata
from streamapp.store.placement import PRIVATE
from streamapp.units import counted, format_duration, format_size


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable
    from pathlib import Path

    from streamapp.settings import Settings

EXIT_BAD: Final = 1
"""A block is bad: the code that ``fsck``-like tools and cron know. ADR 8 says why not 23."""

EXIT_STOPPED: Final = 130
LINE_SECONDS: Final = 5.0
_PREFIX: Final = "processed_data_"


class Summary(msgspec.Struct, kw_only=True, tag_field="kind", tag="summary"):
    """What was found in all folders. *states* counts what is bad, by what is the matter."""

    blocks: int = 0
    bytes: int = 0
    bad: int = 0
    states: dict[str, int] = {}
    quarantined: int = 0
    asked_for_again: int = 0
    is_whole: bool = True
    seconds: float = 0.0

    def line(self) -> str:
        """Return it as a line for people."""
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


class Report:
    """Shows a bar on a terminal, a line now and then elsewhere, JSON for programs."""

    def __init__(
        self,
        *,
        as_json: bool,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stdout
        self._as_json = as_json
        self._clock = clock
        self._next_line = clock() + LINE_SECONDS
        self._bar: Progress | None = None
        if self._stream.isatty() and not as_json:
            columns = (BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task("", total=None)
            self._bar.start()

    def progress(self, done: int, total: int) -> None:
        """Show that *done* of *total* bytes were read."""
        if self._bar:
            self._bar.update(self._task, completed=done, total=max(1, total))
        elif not self._as_json and self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_SECONDS
            self._write(f"{format_size(done)} of {format_size(total)} read")

    def bad(self, verdict: Verdict) -> None:
        """Say that a block is bad."""
        if self._as_json:
            self._write(_as_json(verdict))
        else:
            self._write(f"{verdict.state.value}: {printable(str(verdict.path))}: {verdict.reason}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar.stop()

    def finish(self, summary: Summary) -> None:
        """Say what came of it."""
        self._write(msgspec.json.encode(summary).decode() if self._as_json else summary.line())

    def _write(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)


def run(
    settings: Settings, *, rate: int, with_repair: bool, report: Report, stop: threading.Event
) -> int:
    """Verify every block of this machine; return the exit code, 0 when all are good.

    Without a ``machine_id`` that someone set, every machine's folders are read.

    Raises:
        SourceError: there is no data folder.
        StoreError: something could not be looked at, or a worker has the folder (*with_repair*).
        ClusterError: no broker takes what is to be said (*with_repair*).
    """
    machines = folders_of_machines(settings)
    if with_repair:
        topic_admin.check(settings)  # before anything is moved
    total = sum(_size(root) for roots in machines.values() for root in roots)
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
    """Read the folders of *machine*, take back what is bad, and tell all that is untold."""
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
            watch.summary.asked_for_again += reacknowledge.write(settings, acks).blocks
        for revoked in losses:
            revoke.told(store, revoked)
    finally:
        store.close()


def folders_of_machines(settings: Settings) -> dict[str, list[Path]]:
    """Return the data folders to read, by machine.

    Without a ``machine_id`` that someone set, every machine's folders are read.

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


def _size(root: Path) -> int:
    """Return the bytes of all blocks below *root*: what there is to read."""
    size = 0
    for path, subfolders, names, fd in os.fwalk(root):
        if path == str(root):
            subfolders[:] = [name for name in subfolders if name not in PRIVATE]
        for name in names:
            if metadata.BIN.fullmatch(name):
                try:
                    size += os.stat(name, dir_fd=fd, follow_symlinks=False).st_size
                except OSError:
                    continue  # its verdict comes
    return size


def _as_json(verdict: Verdict) -> str:
    said = {
        "kind": "bad",
        "path": str(verdict.path),
        "state": verdict.state.value,
        "reason": verdict.reason,
        "file_id": verdict.file.file_id if verdict.file else "",
        "name": verdict.file.name if verdict.file else "",
        "block": verdict.block,
        "size": verdict.size,
    }
    return msgspec.json.encode(said).decode()
