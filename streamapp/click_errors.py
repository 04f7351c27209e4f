"""Shows an error at the terminal as one line and an exit code, without a traceback."""

from __future__ import annotations

import contextlib
import sys

from typing import TYPE_CHECKING

import click

from streamapp.errors import StreamAppError
from streamapp.protocol.filenames import printable
from streamapp.settings_errors import without_passwords


if TYPE_CHECKING:
    from collections.abc import Iterator


class ReportedError(click.ClickException):
    """A StreamAppError as click shows it: in one line, with the error's exit code."""

    def __init__(self, error: StreamAppError) -> None:
        super().__init__(printable(without_passwords(str(error))))
        self.exit_code = error.exit_code


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Report a StreamAppError of the body as our commands do; for Faust's commands.

    Raises:
        SystemExit: the body raised one; it has been written in one line.
    """
    try:
        yield
    except StreamAppError as error:
        ReportedError(error).show()
        sys.exit(error.exit_code)
