"""Groups of commands that refuse an option given twice and report errors in one line.

Of ``--data-folder A --data-folder B`` click would take only B, and exit with 0.
"""

from __future__ import annotations

import os
import traceback

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import click

from streamapp.click_errors import ReportedError
from streamapp.errors import StreamAppError
from streamapp.protocol.filenames import printable
from streamapp.settings_errors import without_passwords


if TYPE_CHECKING:
    from collections.abc import Iterable

DEBUG_VARIABLE: Final = "STREAMAPP_DEBUG"
EXIT_UNFORESEEN: Final = 70
"""EX_SOFTWARE of sysexits.h: an error that nobody foresaw."""

_ADVICE: Final = {"data_folder": ": run the command once for each folder"}


class _Strict(click.Command):
    """What commands and groups share."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*.

        Raises:
            UsageError: an option that counts once is given more often.
        """
        if not ctx.resilient_parsing:  # a shell completes the command line
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            _refuse_repeated(ctx, given)
        return super().parse_args(ctx, args)


class StrictCommand(_Strict):
    """A command that refuses an option given twice."""


class StrictGroup(_Strict, click.Group):
    """A group that refuses an option given twice, as its commands and groups do."""

    command_class = StrictCommand
    group_class: type[click.Group | type] | None = type  # groups in it have this class


class ReportingGroup(StrictGroup):
    """The outermost group: reports each error of its commands in one line, without passwords."""

    group_class = StrictGroup

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Invoke the command that *ctx* names."""
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
            reason = printable(without_passwords(" ".join(str(error).split())))
            unforeseen = click.ClickException(
                f"unforeseen {type(error).__name__}: {reason} "
                f"({DEBUG_VARIABLE}=1 shows where; please report it)"
            )
            unforeseen.exit_code = EXIT_UNFORESEEN
            raise unforeseen from error


def _refuse_repeated(ctx: click.Context, given: Iterable[click.Parameter]) -> None:
    """Check the parameters *given*, each listed as often as it was given.

    Raises:
        UsageError: an option that counts once is listed more often.
    """
    for option, times in Counter(given).items():
        if isinstance(option, click.Option) and times > 1 and not (option.multiple or option.count):
            advice = _ADVICE.get(option.name or "", "")
            raise click.UsageError(
                f"{option.opts[0]} is given {times} times, and would count once{advice}", ctx
            )
