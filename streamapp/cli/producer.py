"""`streamapp producer`: sends a folder."""

from __future__ import annotations

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictCommand
from streamapp.settings import Settings
from streamapp.worker import outputs, shutdown


@click.command(cls=StrictCommand, short_help="Send the files of a folder, until all is on disk.")
@options.settings_options(*options.PRODUCER)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Leave when Kafka has everything; exit code 0 then says nothing of disks.",
)
@click.option("--only-failed", is_flag=True, help="Send only files that an earlier run gave up.")
@click.option(
    "--verify", is_flag=True, help="Read every file, and compare it with what is acknowledged."
)
@options.JSON
def producer(
    *, no_wait: bool, only_failed: bool, verify: bool, as_json: bool, **flags: object
) -> None:
    """Send the files of a folder, and wait until machines have all of it on disk.

    Exit code 0 means that every block is persisted and verified; with --no-wait, that Kafka
    has every block. After any other, mend what the last line names: the same command resumes.
    """
    from streamapp.producer import deliver_folder  # noqa: PLC0415 - light start
    from streamapp.ui.delivery_report import reporter  # noqa: PLC0415

    settings = Settings.load(**flags)
    outputs.secure()
    deliver_folder(
        settings,
        wait=not no_wait,
        only_failed=only_failed,
        verify=verify,
        report=reporter(as_json=as_json),
        stop=shutdown.event_of_signals(),
    )
