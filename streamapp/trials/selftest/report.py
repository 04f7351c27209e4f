"""Shows the self-test: a table on a terminal, or JSON for programs."""

from __future__ import annotations

import sys

from typing import IO, TYPE_CHECKING

import msgspec

from rich.console import Console

from streamapp.trials.selftest import results
from streamapp.units import format_duration


if TYPE_CHECKING:
    from streamapp.trials.selftest.results import Row


class Summary(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="summary"):
    """The result of all faults. *is_whole*: none was left out."""

    faults: int
    held: int
    is_whole: bool
    seconds: float


class Report:
    """Shows the progress and the results. Call `close` before anything else is printed."""

    def __init__(self, *, as_json: bool, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._as_json = as_json
        self._console = Console(file=self._stream)
        self._status = self._console.status("")

    def doing(self, what: str) -> None:
        """Show *what*, the current step."""
        if not self._as_json:
            self._status.update(what)
            self._status.start()

    def row(self, row: Row) -> None:
        """Report the result of a fault."""
        if self._as_json:
            self._write(msgspec.json.encode(row).decode())

    def finish(self, rows: list[Row], *, of: int, seconds: float) -> None:
        """Report the result of all faults."""
        held = sum(row.is_held for row in rows)
        is_whole = len(rows) == of
        if self._as_json:
            summary = Summary(
                faults=len(rows), held=held, is_whole=is_whole, seconds=round(seconds, 1)
            )
            self._write(msgspec.json.encode(summary).decode())
            return
        if rows:
            self._console.print(results.table(rows))
        style = "green" if is_whole and held == of else "red"
        self._console.print(
            f"{held} of {of} promises held, in {format_duration(seconds)}", style=style
        )

    def say(self, line: str) -> None:
        """Print a line."""
        if self._as_json:
            self._write(msgspec.json.encode({"kind": "note", "text": line}).decode())
        else:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._status.stop()

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
