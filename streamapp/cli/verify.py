"""`streamapp verify`: reads this machine's blocks again."""

from __future__ import annotations

import sys

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictCommand
from streamapp.settings import Settings
from streamapp.units import parse_rate
from streamapp.worker import shutdown


@click.command(cls=StrictCommand, short_help="Read this machine's blocks again, and compare.")
@options.settings_options(*options.VERIFY)
@click.option("--rate", metavar="SIZE/s", default="0", help="Read no faster.  [default: no limit]")
@click.option(
    "--repair",
    "with_repair",
    is_flag=True,
    help="Move bad blocks to quarantine/ and ask for them again; the worker must be stopped.",
)
@click.option(
    "--against-acks",
    is_flag=True,
    help="Compare with the acknowledgements instead; with --repair publish what is true.",
)
@click.option(
    "--duplicates",
    is_flag=True,
    help="List blocks that another machine of the group has by the newest acknowledgement.",
)
@click.option(
    "--free",
    "with_free",
    is_flag=True,
    help="With --duplicates: delete this machine's copies of them; the worker must be stopped.",
)
@click.option(
    "--earlier",
    "with_earlier",
    is_flag=True,
    help="With --duplicates: list also what another machine acknowledged before this one.",
)
@options.JSON
def verify(  # noqa: PLR0913 - the flags of three modes
    *,
    rate: str,
    with_repair: bool,
    against_acks: bool,
    duplicates: bool,
    with_free: bool,
    with_earlier: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Read all blocks on this machine again, and compare them with their SHA-256.

    With --against-acks no block is read: what the group's acknowledgements say of this machine is
    compared with the names of the blocks that are here. Exit code 1: they differ.

    With --duplicates no block is read either: blocks that lie here and, by their newest
    acknowledgement, on another machine are listed. Exit code 1: there are some.

    Only reads, beside a running worker too; without --machine-id the folders of every machine
    in --data-dir. Exit code 0: all good, 1: some are bad, 130: stopped before the end.
    """
    from streamapp.integrity import verify_folders  # noqa: PLC0415 - light start

    _check_modes(
        duplicates,
        has_other_modes=against_acks or with_repair,
        has_parts=with_free or with_earlier,
    )
    settings = Settings.load(**flags)
    if against_acks:
        from streamapp.integrity import verify_acks  # noqa: PLC0415 - light start

        machines = verify_folders.folders_of_machines(settings)
        sys.exit(verify_acks.run(settings, machines, with_repair=with_repair, as_json=as_json))
    if duplicates:
        from streamapp.integrity import verify_duplicates  # noqa: PLC0415 - light start

        sys.exit(
            verify_duplicates.run(
                settings,
                verify_folders.folders_of_machines(settings),
                with_free=with_free,
                with_earlier=with_earlier,
                as_json=as_json,
                stop=shutdown.event_of_signals(),
            )
        )
    from streamapp.ui.verify_report import VerifyReport  # noqa: PLC0415 - light start

    sys.exit(
        verify_folders.run(
            settings,
            report=VerifyReport(as_json=as_json),
            stop=shutdown.event_of_signals(),
            rate=parse_rate(rate),
            with_repair=with_repair,
        )
    )


def _check_modes(duplicates: bool, *, has_other_modes: bool, has_parts: bool) -> None:  # noqa: FBT001
    """Check the flags that choose and refine a mode.

    Raises:
        UsageError: they exclude each other, or one needs another.
    """
    if duplicates and has_other_modes:
        message = "--duplicates goes neither with --against-acks nor with --repair: give one"
        raise click.UsageError(message)
    if has_parts and not duplicates:
        message = "--free and --earlier need --duplicates"
        raise click.UsageError(message)
