"""Shows the progress and the result of `streamapp verify`."""

from __future__ import annotations

import sys
import time

from typing import IO, TYPE_CHECKING, Final

import msgspec

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from streamapp.protocol.filenames import printable
from streamapp.units import format_size


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.integrity.verify import Verdict
    from streamapp.integrity.verify_folders import Summary

LINE_SECONDS: Final = 5.0


class VerifyReport:
    """Shows a bar on a terminal, a line every `LINE_SECONDS` elsewhere, or JSON."""

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
        """Report a bad block."""
        if self._as_json:
            self._write(_as_json(verdict))
        else:
            self._write(f"{verdict.state.value}: {printable(str(verdict.path))}: {verdict.reason}")

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar:
            self._bar.stop()

    def finish(self, summary: Summary) -> None:
        """Report the totals."""
        self._write(msgspec.json.encode(summary).decode() if self._as_json else summary.line())

    def _write(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)


def _as_json(verdict: Verdict) -> str:
    fields = {
        "kind": "bad",
        "path": str(verdict.path),
        "state": verdict.state.value,
        "reason": verdict.reason,
        "file_id": verdict.file.file_id if verdict.file else "",
        "name": verdict.file.name if verdict.file else "",
        "block": verdict.block,
        "size": verdict.size,
    }
    return msgspec.json.encode(fields).decode()
