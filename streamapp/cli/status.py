"""`streamapp status`: shows the files' progress and the machines."""

from __future__ import annotations

import os
import sys

from typing import Final

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictCommand
from streamapp.protocol.messages import STATES
from streamapp.settings import Settings


FILE_COLUMNS: Final = 160
"""Width of a page that is not written to a terminal."""


@click.command(cls=StrictCommand, short_help="Show the files' progress and the machines.")
@options.settings_options("web_host", "web_port")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Most files shown."
)
@click.option("--search", default="", help="Only files whose name has this in it.")
@click.option("--state", type=click.Choice(STATES), help="Only files in this state.")
@click.option("--failed", is_flag=True, help="The same as --state failed: blocks were given up.")
@click.option("--watch", "is_watching", is_flag=True, help="Once a second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="The web views' JSON.")
def status(  # noqa: PLR0913 - the flags of the command
    *,
    limit: int,
    search: str,
    state: str | None,
    failed: bool,
    is_watching: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Show the files' progress and the machines, as any worker of the group knows them.

    What is under way comes first. With --watch and --json: one JSON object a line.
    """
    from rich.console import Console  # noqa: PLC0415 - light start

    from streamapp.ui import status_view  # noqa: PLC0415

    if failed and state not in {None, "failed"}:
        message = f"--failed and --state {state} exclude each other: give one"
        raise click.UsageError(message)
    settings = Settings.load(**flags)
    wanted = "failed" if failed else (state or "")
    query = status_view.ViewQuery(limit=limit, search=search, state=wanted)
    if as_json:
        status_view.write_json(settings, query, is_watching=is_watching, write=click.echo)
        return
    # A file or `grep` has no width: rich would take 80 columns, and break lines there.
    is_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(highlight=False, width=None if is_narrow else FILE_COLUMNS)
    if is_watching:
        status_view.watch(settings, console, query)
    else:
        status_view.show(settings, console, query)
