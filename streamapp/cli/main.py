"""Assembles the command line. Each command, or group of commands, has a module of its own.

A command parses its flags, calls another package and prints the result. Each flag of a setting is
described on the setting (`streamapp.settings`). The modules that do the work are imported when
the command is called, so that no command waits for imports that it does not need.
"""

from __future__ import annotations

import click

import streamapp

from streamapp.cli.broker import broker
from streamapp.cli.config import config
from streamapp.cli.demo import demo
from streamapp.cli.files import files
from streamapp.cli.groups import ReportingGroup
from streamapp.cli.machines import machines
from streamapp.cli.producer import producer
from streamapp.cli.selftest import selftest
from streamapp.cli.status import status
from streamapp.cli.tables import tables
from streamapp.cli.topics import topics
from streamapp.cli.verify import verify
from streamapp.cli.versions import versions
from streamapp.cli.worker import worker
from streamapp.worker import logs


@click.group(cls=ReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(streamapp.__version__, prog_name="streamapp")
def cli() -> None:
    """Move files of any size to many machines through Apache Kafka, losing nothing.

    Every flag is also a variable (--machine-id: STREAMAPP_MACHINE_ID) and a key of
    streamapp.toml (machine_id).
    """


for _command in (
    *(producer, worker, topics, broker, verify, machines, files, versions),
    *(tables, status, demo, selftest, config),
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    logs.set_up_commands()
    cli(prog_name="streamapp")
