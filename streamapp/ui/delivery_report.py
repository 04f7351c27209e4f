"""Shows a delivery: bars on a terminal, otherwise lines, or JSON for programs.

File names are data, so control characters are shown as escapes.
"""

from __future__ import annotations

import sys
import time

from typing import IO, TYPE_CHECKING, Final

import msgspec

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from streamapp.producer.events import (
    BlockFailed,
    BlockResent,
    Event,
    FileEvent,
    Notice,
    Progress,
    Summary,
    Waiting,
)
from streamapp.protocol.filenames import printable
from streamapp.units import counted, format_duration, format_rate, format_size


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import RenderableType

    from streamapp.producer.events import Reporter

LINE_SECONDS: Final = 5.0
MAX_PROBLEM_LINES: Final = 100


def reporter(*, as_json: bool, stream: IO[str] | None = None) -> Reporter:
    """Return the reporter for *stream* (default: standard output)."""
    stream = stream or sys.stdout
    if as_json:
        return JsonReporter(stream)
    return BarReporter(stream) if stream.isatty() else LineReporter(stream)


class JsonReporter:
    """Writes each event as one JSON object a line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Write *event*."""
        self._stream.write(msgspec.json.encode(event).decode() + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is open."""


class LineReporter:
    """Writes a line every few seconds, and one for each of the first problems."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._next_line = clock()
        self._problems = 0

    def __call__(self, event: Event) -> None:
        """Write *event* as a line; progress only every `LINE_SECONDS`."""
        if isinstance(event, Progress):
            if self._clock() < self._next_line:
                return
            self._next_line = self._clock() + LINE_SECONDS
            self.write(progress_line(event))
        elif line := line_of(event):
            is_problem = not isinstance(event, (Notice, Waiting, Summary))
            if is_problem:
                self._problems += 1
            if self._problems <= MAX_PROBLEM_LINES or not is_problem:
                self.write(line)
            if self._problems == MAX_PROBLEM_LINES:
                self._problems += 1
                self.write("... further problems are only counted; --json tells all")

    def write(self, line: str) -> None:
        """Write *line* and flush it, because a log is read while it grows."""
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class BarReporter(LineReporter):
    """Draws two bars at the bottom of a terminal, for sent and for persisted bytes."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self._bars = _Bars(
            TextColumn("{task.description:9}"),
            BarColumn(),
            TextColumn("{task.fields[part]:>3}%"),
            TextColumn("{task.fields[note]}"),
            console=Console(file=stream),
            refresh_per_second=4,
        )
        self._tasks = [
            self._bars.add_task(name, total=None, part=0, note="") for name in ("sent", "persisted")
        ]

    def __call__(self, event: Event) -> None:
        """Update the bars, or write a line above them; the summary is written below them."""
        if isinstance(event, Summary):
            self.close()
        if not isinstance(event, Progress):
            super().__call__(event)
            return
        self._bars.reason = event.waiting
        self._bars.update(self._tasks[1], visible=event.waits)
        self._bars.start()
        files = f"{event.files_done} of {counted(event.files, 'file')} done"
        speed = f"{format_rate(event.rate)}, {_left(event)}"
        of = format_size(event.bytes)
        sent = f"{format_size(event.bytes_sent)} of {of}"
        notes = (
            f"{sent}, {files}" if event.waits else f"{sent}, {files}, {speed}",
            f"{format_size(event.bytes_persisted)} of {of}, {speed}",
        )
        for task, done, note in zip(
            self._tasks, (event.bytes_sent, event.bytes_persisted), notes, strict=True
        ):
            part = _part(done, event.bytes)
            self._bars.update(task, total=max(event.bytes, 1), completed=done, part=part, note=note)

    def write(self, line: str) -> None:
        """Write *line* above the bars."""
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop the bars; they stay in the terminal as they are."""
        self._bars.stop()


def line_of(event: Event) -> str:
    """Return *event* as a line; empty if it is not shown."""
    if isinstance(event, FileEvent):
        if not (event.is_problem or event.state == "special"):
            return ""
        state = "not sent" if event.state == "special" else event.state
        return f"{state}: {printable(event.name)}: {printable(event.reason)}"
    if isinstance(event, (BlockResent, BlockFailed)):
        what = "sending again" if isinstance(event, BlockResent) else "given up"
        return (
            f"{what}: {printable(event.name)}, block {event.block}, after "
            f"{counted(event.tries, 'attempt')}: {printable(event.reason)}"
        )
    if isinstance(event, Waiting):
        return f"waiting: {event.reason}"
    if isinstance(event, Notice):
        return f"note: {event.text}"
    return summary_line(event) if isinstance(event, Summary) else ""


def progress_line(event: Progress) -> str:
    """Return the progress in one line."""
    done = event.bytes_persisted if event.waits else event.bytes_sent
    part = _part(done, event.bytes)
    sent = f"{format_size(event.bytes_sent)} sent, " if event.waits else ""
    return (
        f"{event.files_done} of {counted(event.files, 'file')}; {sent}{format_size(done)} of "
        f"{format_size(event.bytes)} {'persisted' if event.waits else 'sent'} ({part} %), "
        f"{format_rate(event.rate)}, {_left(event)}"
        f"{event.waiting and f'; waiting: {event.waiting}'}"
    )


def summary_line(event: Summary) -> str:
    """Return the result in one line."""
    counts = {
        "delivered": event.delivered,
        "in Kafka, not yet on disk": event.sent,
        "there already": event.skipped,
        "changed": event.changed,
        "unreadable": event.unreadable,
        "failed": event.failed,
        "special, not sent": event.special,
    }
    files = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none done"
    return (
        f"{counted(event.files, 'file')}: {files}; {counted(event.blocks_sent, 'block')} sent, "
        f"{event.blocks_resent} of them again; {format_size(event.bytes_sent)} sent, "
        f"{format_size(event.bytes_persisted)} persisted in {format_duration(event.seconds)}, "
        f"{format_rate(event.rate)}"
    )


def _part(done: int, size: int) -> int:
    """Return the percentage that is done, rounded down: 100 only if all of it is."""
    return 100 * done // size if size else 100


def _left(event: Progress) -> str:
    return "time left unknown" if event.eta is None else f"{format_duration(event.eta)} left"


class _Bars(Bars):
    """Bars, and below them the reason while the delivery waits."""

    reason = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars and the reason."""
        yield from super().get_renderables()
        if self.reason:
            yield Text(f"waiting: {self.reason}", style="yellow")
