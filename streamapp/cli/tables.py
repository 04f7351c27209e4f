"""`streamapp tables`: recovers the tables that hold the progress."""

from __future__ import annotations

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictGroup
from streamapp.settings import Settings
from streamapp.units import counted


@click.group(cls=StrictGroup, short_help="Bring back the tables that hold the progress.")
def tables() -> None:
    """Bring back the tables that hold the progress; the blocks themselves are not touched."""


@tables.command("rebuild")
@options.settings_options(*options.COMMON, "data_dir")
@click.option(
    "--from",
    "source",
    default="acks",
    show_default=True,
    type=click.Choice(["acks", "disks"]),
    help="acks: fold the acknowledgements again (workers stopped). disks: acknowledge again "
    "what this machine has on disk; on every machine, when the topic itself was lost.",
)
def tables_rebuild(*, source: str, **flags: object) -> None:
    """Rebuild the tables, from the acknowledgements or from the disks."""
    from streamapp.integrity import reacknowledge  # noqa: PLC0415 - light start
    from streamapp.worker import table_recovery  # noqa: PLC0415 - light start

    settings = Settings.load(**flags)
    if source == "disks":
        blocks = reacknowledge.from_disks(settings)
        click.echo(f"{counted(blocks, 'block')} acknowledged again; workers fold them now")
    else:
        table_recovery.rebuild_from_acks(settings)
        click.echo("The tables come back when the workers start: start them now")
