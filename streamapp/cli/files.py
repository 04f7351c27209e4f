"""`streamapp files`: manages what producers have announced of files."""

from __future__ import annotations

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictGroup
from streamapp.settings import Settings


@click.group(cls=StrictGroup, short_help="Manage what is announced of files.")
def files() -> None:
    """Manage what producers have announced of files."""


@files.command("forget", short_help="End files that can never be complete.")
@options.settings_options(*options.COMMON, "data_folder")
@click.option("--dry-run", is_flag=True, help="List what would be forgotten, and change nothing.")
def files_forget(*, dry_run: bool, **flags: object) -> None:
    """End files that were deleted at their source, and of which the group lacks blocks.

    Run it where the producer runs, with its --machine-id and --data-folder. A file is forgotten
    only if it is not in the folder and the group has not all of it. No block is deleted. If the
    file comes back, the producer's next run sends it.
    """
    from streamapp.integrity import gone_files  # noqa: PLC0415 - light start

    gone_files.forget(Settings.load(**flags), is_dry_run=dry_run, write=click.echo)
