"""Commands that refuse an option that is given twice but counts once.

click takes the last of them and says nothing: of ``--data-folder A --data-folder B`` only B
would be sent, with exit code 0.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import click


if TYPE_CHECKING:
    from collections.abc import Iterable

_ADVICE: Final = {"data_folder": ": run the command once for each folder"}


class _Strict(click.Command):
    """What both kinds of commands share."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*, unless an option counts once and is there more often.

        Raises:
            UsageError: it is.
        """
        if not ctx.resilient_parsing:  # completing in a shell
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            _refuse_repeated(ctx, given)
        return super().parse_args(ctx, args)


class StrictCommand(_Strict):
    """A command that refuses an option given twice."""


class StrictGroup(_Strict, click.Group):
    """A group whose commands, and it itself, refuse an option given twice."""

    command_class = StrictCommand
    group_class: type[click.Group | type] | None = type  # this class, for groups in it


def _refuse_repeated(ctx: click.Context, given: Iterable[click.Parameter]) -> None:
    """Refuse what is *given* (once for each time that it was) and counts once.

    Raises:
        UsageError: there is such an option.
    """
    for option, times in Counter(given).items():
        if isinstance(option, click.Option) and times > 1 and not (option.multiple or option.count):
            advice = _ADVICE.get(option.name or "", "")
            raise click.UsageError(
                f"{option.opts[0]} is given {times} times, and would count once{advice}", ctx
            )
