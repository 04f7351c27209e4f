"""Prints what a command found, one line for each finding: as text, or as JSON."""

from __future__ import annotations

import sys

from typing import IO, TYPE_CHECKING, Protocol

import msgspec


if TYPE_CHECKING:
    from collections.abc import Callable


class Printable(Protocol):
    """A struct that has a text form too."""

    def line(self) -> str:
        """Return the text output."""


def line_writer(*, as_json: bool, stream: IO[str] | None) -> Callable[[Printable], None]:
    """Return a function that prints to *stream*, or to what standard output is at each call."""

    def write(found: Printable) -> None:
        text = msgspec.json.encode(found).decode() if as_json else found.line()
        print(text, file=stream or sys.stdout, flush=True)

    return write
