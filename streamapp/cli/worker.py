"""`streamapp worker`: receives blocks on this machine."""

from __future__ import annotations

import os
import sys

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictCommand
from streamapp.settings import Settings, as_environment
from streamapp.worker import outputs


@click.command(cls=StrictCommand, short_help="Receive blocks on this machine, and keep them.")
@options.settings_options(*options.WORKER)
@click.option(
    "--loglevel",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What is logged.",
)
@click.option("--supervise", is_flag=True, help="Start it again when it dies or is stuck.")
def worker(*, loglevel: str, supervise: bool, **flags: object) -> None:
    """Receive blocks on this machine: verify, keep and acknowledge them.

    The same as `faust -A streamapp.app worker` with the settings in the environment.
    """
    outputs.secure()
    Settings.load(**flags)  # reports a wrong setting before Faust is loaded
    os.environ.update(as_environment(flags))
    if supervise:
        from streamapp.worker import supervisor  # noqa: PLC0415 - light start

        command = [sys.executable, "-m", "streamapp", "worker", "--loglevel", loglevel]
        sys.exit(supervisor.supervise(command))
    from streamapp.worker import startup  # noqa: PLC0415 - only a worker loads Faust

    startup.run(loglevel=loglevel)
