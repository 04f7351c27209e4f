"""How errors reach the person at the terminal: one line, one exit code, no traceback."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from typing import TYPE_CHECKING, Any, Final

import click

from streamapp.cli.strict import StrictGroup
from streamapp.errors import StreamAppError
from streamapp.protocol.filenames import printable
from streamapp.settings_errors import without_passwords


if TYPE_CHECKING:
    from collections.abc import Iterator


DEBUG_VARIABLE: Final = "STREAMAPP_DEBUG"
EXIT_UNFORESEEN: Final = 70
"""EX_SOFTWARE of sysexits.h: an error that nobody foresaw."""


class ReportedError(click.ClickException):
    """Shows one of our errors in one line and exits with its own code."""

    def __init__(self, error: StreamAppError) -> None:
        super().__init__(printable(without_passwords(str(error))))
        self.exit_code = error.exit_code


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Exit as a command does when the body raises one of our errors; for Faust's commands.

    Raises:
        SystemExit: the body raised; what it was is written in one line.
    """
    try:
        yield
    except StreamAppError as error:
        ReportedError(error).show()
        sys.exit(error.exit_code)


class ReportingGroup(StrictGroup):
    """A group of commands whose errors are reported so, and which take no option for two."""

    group_class = StrictGroup

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Invoke the command that was asked for."""
        try:
            return super().invoke(ctx)
        except StreamAppError as error:
            raise ReportedError(error) from error
        except click.ClickException as error:
            error.message = without_passwords(error.message)
            raise
        except (click.exceptions.Exit, click.Abort, EOFError):
            raise
        except BrokenPipeError:  # `| head`: click ends quietly
            raise
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exc()
            said = printable(without_passwords(" ".join(str(error).split())))
            message = (
                f"unforeseen {type(error).__name__}: {said} "
                f"({DEBUG_VARIABLE}=1 shows where; please report it)"
            )
            unforeseen = click.ClickException(message)
            unforeseen.exit_code = EXIT_UNFORESEEN
            raise unforeseen from error
