"""`streamapp machines`: manages the machines of a group."""

from __future__ import annotations

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictGroup
from streamapp.settings import Settings
from streamapp.units import counted


@click.group(cls=StrictGroup)
def machines() -> None:
    """Manage the machines of a group."""


@machines.command("forget", short_help="Give up a machine that never returns.")
@options.settings_options(*options.MACHINES)
@click.argument("name")
@click.option("--force", is_flag=True, help="Also while the machine is up.")
def machines_forget(name: str, *, force: bool, **flags: object) -> None:
    """Give up a machine that never returns: the next producer run sends what it had.

    Everything that the group's acknowledgements place on the machine NAME is published as lost,
    and its row is removed. If it returns after all, its worker acknowledges again what it has.
    """
    from streamapp.integrity import machines as group_machines  # noqa: PLC0415 - light start

    settings = Settings.load(**flags)
    count = group_machines.forget(settings, name, force=force)
    if count is None:
        click.echo(f"Group {settings.group_id} knows no machine {name}: nothing to forget")
        return
    click.echo(f"Machine {name} is forgotten; to be sent again: {counted(count, 'block')} of it")
    if count:
        click.echo("What its source no longer has cannot be sent: streamapp files forget ends it")
