"""`streamapp versions`: manages earlier versions of files."""

from __future__ import annotations

import sys

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictGroup
from streamapp.settings import Settings
from streamapp.worker import shutdown


@click.group(cls=StrictGroup, short_help="Manage earlier versions of files.")
def versions() -> None:
    """Manage earlier versions of files that were changed and sent again."""


@versions.command("free", short_help="Delete this machine's superseded blocks.")
@options.settings_options(*options.VERIFY, "topic_prefix")
@click.option("--dry-run", is_flag=True, help="List what would be freed, and change nothing.")
@options.JSON
def versions_free(*, dry_run: bool, as_json: bool, **flags: object) -> None:
    """Delete the blocks of superseded versions on this machine; its worker must be stopped.

    A version is deleted only while the group has all of the current one. Exit code 0: all that may
    go is gone, 130: stopped before the end. With --dry-run a worker may run.
    """
    from streamapp.integrity import verify_folders  # noqa: PLC0415 - light start
    from streamapp.integrity import versions as earlier  # noqa: PLC0415

    settings = Settings.load(**flags)
    folders = verify_folders.folders_of_machines(settings)
    stop = shutdown.event_of_signals()
    sys.exit(earlier.free(settings, folders, is_dry_run=dry_run, as_json=as_json, stop=stop))
