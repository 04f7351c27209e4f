"""`streamapp config`: prints the settings in force."""

from __future__ import annotations

import click

from streamapp.cli.groups import StrictCommand
from streamapp.settings import Settings, flag_of


@click.command(cls=StrictCommand, short_help="Print the settings in force, and where from.")
def config() -> None:
    """Print the settings in force and where each came from; secrets are hidden."""
    settings = Settings.load()
    for name, (value, origin) in settings.origins().items():
        click.echo(f"{flag_of(name):20} {value:40} {origin}")
