"""`streamapp selftest`: tries the promises on the user's cluster."""

from __future__ import annotations

import sys

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictCommand
from streamapp.settings import Settings
from streamapp.worker import shutdown


@click.command(cls=StrictCommand, short_help="Try the promises on your own cluster.")
@options.settings_options("brokers", "replication")
@click.option("--keep", is_flag=True, help="Leave topics, group and folder for a closer look.")
@options.JSON
def selftest(*, keep: bool, as_json: bool, **flags: object) -> None:
    """Kill, drop, double and spoil on your own cluster, and see what is lost.

    In about a minute: two workers and a producer on this machine, some 60 MiB through topics
    and a group of their own, nine faults. After each one the disks are read and compared with
    what was sent and with every acknowledgement. Brokers are not harmed, other topics not
    touched; topics, group and files are deleted at the end, Ctrl-C or not.

    Exit code 0: every promise was held. 1: something was lost.
    """
    from streamapp.trials.selftest import run  # noqa: PLC0415 - light start
    from streamapp.trials.selftest.report import Report  # noqa: PLC0415

    settings = Settings.load(**flags)
    stop = shutdown.event_of_signals(second_ends=False)  # it stops in seconds, and then tidies up
    sys.exit(run.run(settings, keep=keep, report=Report(as_json=as_json), stop=stop))
