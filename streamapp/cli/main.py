"""The commands: they parse, call, print, and decide nothing.

Every flag is a setting (`streamapp.settings`); what a command does is in the module it calls,
imported when it is called. Nothing here needs Faust, so the producer runs without it.
"""

from __future__ import annotations

import os
import sys

from pathlib import Path
from typing import Any, Final

import click

import streamapp

from streamapp.cli import options
from streamapp.cli.options import settings_options
from streamapp.click_errors import ReportingGroup
from streamapp.protocol.messages import STATES
from streamapp.settings import Settings, flag_of
from streamapp.units import counted, parse_rate
from streamapp.worker import logs, outputs, shutdown


FILE_COLUMNS: Final = 160
"""How wide a page is that goes to no terminal."""


@click.group(cls=ReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(streamapp.__version__, prog_name="streamapp")
def cli() -> None:
    """Move files of any size to many machines through Apache Kafka, losing nothing.

    Every flag is also a variable (--machine-id: STREAMAPP_MACHINE_ID) and a key of
    streamapp.toml (machine_id).
    """


@cli.command(short_help="Send the files of a folder, until all is on disk.")
@settings_options(*options.PRODUCER, "replication", "retention_hours", "retention_size")
@click.option(
    "--no-wait",
    is_flag=True,
    help="Leave when Kafka has everything; exit code 0 then says nothing of disks.",
)
@click.option("--only-failed", is_flag=True, help="Send only files that an earlier run gave up.")
@click.option(
    "--verify", is_flag=True, help="Read every file, and compare it with what is acknowledged."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def producer(
    *, no_wait: bool, only_failed: bool, verify: bool, as_json: bool, **flags: object
) -> None:
    """Send the files of a folder, and wait until machines have all of it on disk.

    Exit code 0 means that every block is persisted and verified; with --no-wait, that Kafka
    has every block. After any other, mend what the last line names: the same command resumes.
    """
    from streamapp import producer as sender  # noqa: PLC0415 - light start
    from streamapp.ui.delivery_report import reporter  # noqa: PLC0415

    settings = Settings.load(**flags)
    outputs.secure()
    sender.deliver_folder(
        settings,
        wait=not no_wait,
        only_failed=only_failed,
        verify=verify,
        report=reporter(as_json=as_json),
        stop=shutdown.event_of_signals(),
    )


@cli.command(short_help="Receive blocks on this machine, and keep them.")
@settings_options(*options.WORKER, "replication", "retention_hours", "retention_size")
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
    Settings.load(**flags)  # say what is wrong before Faust is loaded
    os.environ.update(options.as_environment(flags))
    if supervise:
        from streamapp.worker import supervisor  # noqa: PLC0415 - light start

        command = [sys.executable, "-m", "streamapp", "worker", "--loglevel", loglevel]
        sys.exit(supervisor.supervise(command))
    from streamapp.worker import startup as runner  # noqa: PLC0415 - Faust is for workers alone

    runner.run(loglevel=loglevel)


@cli.group()
def topics() -> None:
    """Create and check the Kafka topics."""


@topics.command("create")
@settings_options(*options.TOPICS)
def topics_create(**flags: object) -> None:
    """Create the topics that are missing, and check all."""
    from streamapp.kafka import topic_admin as all_topics  # noqa: PLC0415 - light start

    _print_topics(all_topics.ensure(Settings.load(**flags)))


@topics.command("check")
@settings_options("brokers", "topic_prefix")
def topics_check(**flags: object) -> None:
    """Check that the topics are there and as they must be."""
    from streamapp.kafka import topic_admin as all_topics  # noqa: PLC0415 - light start

    _print_topics(all_topics.check(Settings.load(**flags)))


@cli.group(short_help="Run an Apache Kafka on this machine, for trials.")
def broker() -> None:
    """Run the embedded Apache Kafka: one node on this machine, for trials and development."""


_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), help="Where its data are kept between starts."
)


@broker.command("start")
@_FOLDER
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: 9092]")
def broker_start(folder: Path | None, port: int | None) -> None:
    """Start it, or say that it runs already."""
    from streamapp import broker as embedded  # noqa: PLC0415 - light start

    cluster = embedded.Cluster(
        folder or embedded.default_folder(), port=port or embedded.DEFAULT_PORT
    )
    cluster.start()
    click.echo(f"Apache Kafka is up at {cluster.bootstrap}")


@broker.command("stop")
@_FOLDER
def broker_stop(folder: Path | None) -> None:
    """Stop it; its data stay."""
    from streamapp import broker as embedded  # noqa: PLC0415 - light start

    cluster = embedded.Cluster(folder or embedded.default_folder())
    was_running = any(node.running for node in cluster.status())
    cluster.stop()
    click.echo("Apache Kafka is stopped" if was_running else "Apache Kafka was not running")


@broker.command("status")
@_FOLDER
def broker_status(folder: Path | None) -> None:
    """Say whether it runs; exit code 1 when it does not."""
    from streamapp import broker as embedded  # noqa: PLC0415 - light start

    nodes = embedded.Cluster(folder or embedded.default_folder()).status()
    for node in nodes:
        state = f"up at {node.host}:{node.port}, pid {node.pid}" if node.running else "down"
        click.echo(f"node {node.number}: {state}, data in {node.folder}")
    if not any(node.running for node in nodes):
        click.echo("Apache Kafka is not running: streamapp broker start")
        sys.exit(1)


@cli.command(short_help="Read this machine's blocks again, and compare.")
@settings_options(*options.VERIFY)
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
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
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

    _check_modes(duplicates, others=against_acks or with_repair, parts=with_free or with_earlier)
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
    report = verify_folders.Report(as_json=as_json)
    stop = shutdown.event_of_signals()
    bytes_a_second = parse_rate(rate)
    sys.exit(
        verify_folders.run(
            settings, rate=bytes_a_second, with_repair=with_repair, report=report, stop=stop
        )
    )


def _check_modes(duplicates: bool, *, others: bool, parts: bool) -> None:  # noqa: FBT001
    """Refuse flags of `verify` that do not belong together.

    Raises:
        UsageError: they do not.
    """
    if duplicates and others:
        message = "--duplicates goes neither with --against-acks nor with --repair: give one"
        raise click.UsageError(message)
    if parts and not duplicates:
        message = "--free and --earlier need --duplicates"
        raise click.UsageError(message)


@cli.group()
def machines() -> None:
    """Manage the machines of a group."""


@machines.command("forget", short_help="Give up a machine that never returns.")
@settings_options(*options.MACHINES)
@click.argument("name")
@click.option("--force", is_flag=True, help="Also while the machine is up.")
def machines_forget(name: str, *, force: bool, **flags: object) -> None:
    """Give up a machine that never returns: the next producer run sends what it had.

    Everything that the group's acknowledgements place on the machine NAME is published as lost,
    and its row is removed. If it returns after all, its worker acknowledges again what it has.
    """
    from streamapp.integrity import machines as all_machines  # noqa: PLC0415 - light start

    settings = Settings.load(**flags)
    count = all_machines.forget(settings, name, force=force)
    if count is None:
        click.echo(f"Group {settings.group_id} knows no machine {name}: nothing to forget")
        return
    click.echo(f"Machine {name} is forgotten; to be sent again: {counted(count, 'block')} of it")
    if count:
        click.echo("What its source no longer has cannot be sent: streamapp files forget ends it")


@cli.group(short_help="Manage what is announced of files.")
def files() -> None:
    """Manage what producers have announced of files."""


@files.command("forget", short_help="End files that can never be complete.")
@settings_options(*options.COMMON, "data_folder")
@click.option("--dry-run", is_flag=True, help="List what would be forgotten, and change nothing.")
def files_forget(*, dry_run: bool, **flags: object) -> None:
    """End files that were deleted at their source, and of which the group lacks blocks.

    Run it where the producer runs, with its --machine-id and --data-folder. A file is forgotten
    only if it is not in the folder and the group has not all of it. No block is deleted. If the
    file comes back, the producer's next run sends it.
    """
    from streamapp.integrity import gone_files  # noqa: PLC0415 - light start

    gone_files.forget(Settings.load(**flags), is_dry_run=dry_run, write=click.echo)


@cli.group(short_help="Manage earlier versions of files.")
def versions() -> None:
    """Manage earlier versions of files that were changed and sent again."""


@versions.command("free", short_help="Delete this machine's superseded blocks.")
@settings_options(*options.VERIFY, "topic_prefix")
@click.option("--dry-run", is_flag=True, help="List what would be freed, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def versions_free(*, dry_run: bool, as_json: bool, **flags: object) -> None:
    """Delete the blocks of superseded versions on this machine; its worker must be stopped.

    A version is deleted only while the group has all of the current one. Exit code 0: all that may
    go is gone, 130: stopped before the end. With --dry-run a worker may run.
    """
    from streamapp.integrity import verify_folders  # noqa: PLC0415 - light start
    from streamapp.integrity import versions as all_versions  # noqa: PLC0415

    settings = Settings.load(**flags)
    folders = verify_folders.folders_of_machines(settings)
    stop = shutdown.event_of_signals()
    sys.exit(all_versions.free(settings, folders, is_dry_run=dry_run, as_json=as_json, stop=stop))


@cli.group(short_help="Bring back the tables that hold the progress.")
def tables() -> None:
    """Bring back the tables that hold the progress; the blocks themselves are not touched."""


@tables.command("rebuild")
@settings_options(*options.COMMON, "data_dir")
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
        outcome = reacknowledge.from_disks(settings)
        click.echo(f"{counted(outcome.blocks, 'block')} acknowledged again; workers fold them now")
    else:
        table_recovery.rebuild_from_acks(settings)
        click.echo("The tables come back when the workers start: start them now")


@cli.command(short_help="Show the files' progress and the machines.")
@settings_options("web_host", "web_port")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Most files shown."
)
@click.option("--search", default="", help="Only files whose name has this in it.")
@click.option("--state", type=click.Choice(STATES), help="Only files in this state.")
@click.option("--failed", is_flag=True, help="The same as --state failed: blocks were given up.")
@click.option("--watch", "is_watching", is_flag=True, help="Once a second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="The web views' JSON.")
def status(  # noqa: PLR0913 - the flags of the command
    *,
    limit: int,
    search: str,
    state: str | None,
    failed: bool,
    is_watching: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Show the files' progress and the machines, as any worker of the group knows them.

    What is under way comes first. With --watch and --json: one JSON object a line.
    """
    from rich.console import Console  # noqa: PLC0415 - light start

    from streamapp.cli import status as views  # noqa: PLC0415

    if failed and state not in {None, "failed"}:
        message = f"--failed and --state {state} exclude each other: give one"
        raise click.UsageError(message)
    settings = Settings.load(**flags)
    wanted = "failed" if failed else state or ""
    query = views.ViewQuery(limit=limit, search=search, state=wanted)
    if as_json:
        views.write_json(settings, query, is_watching=is_watching, write=click.echo)
        return
    # A file or `grep` has no width: rich would take 80 columns, and break lines there.
    is_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(highlight=False, width=None if is_narrow else FILE_COLUMNS)
    (views.watch if is_watching else views.show)(settings, console, query)


@cli.command(short_help="Try it: a Kafka, two workers and some files.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder to send; without it the demo makes one of 1 GiB.",
)
@click.option(
    "--folder",
    default=Path("streamapp-demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the demo works; its last run there is cleared first.",
)
@click.option("--keep", is_flag=True, help="Leave broker and workers running.")
def demo(data: Path | None, folder: Path, *, keep: bool) -> None:
    """Send a folder through a real Apache Kafka to two workers, and prove that it arrived."""
    from streamapp.trials import demo as show  # noqa: PLC0415 - light start

    sys.exit(show.run(folder.resolve(), data=data and data.resolve(), keep=keep))


@cli.command(short_help="Try the promises on your own cluster.")
@settings_options("brokers", "replication")
@click.option("--keep", is_flag=True, help="Leave topics, group and folder for a closer look.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def selftest(*, keep: bool, as_json: bool, **flags: object) -> None:
    """Kill, drop, double and spoil on your own cluster, and see what is lost.

    In about a minute: two workers and a producer on this machine, some 60 MiB through topics
    and a group of their own, nine faults. After each one the disks are read and compared with
    what was sent and with every acknowledgement. Brokers are not harmed, other topics not
    touched; topics, group and files are deleted at the end, Ctrl-C or not.

    Exit code 0: every promise was held. 1: something was lost.
    """
    from streamapp.trials import selftest as chaos  # noqa: PLC0415 - light start
    from streamapp.trials.selftest.report import Report  # noqa: PLC0415

    settings = Settings.load(**flags)
    stop = shutdown.event_of_signals(second_ends=False)  # it stops in seconds, and then tidies up
    sys.exit(chaos.run(settings, keep=keep, report=Report(as_json=as_json), stop=stop))


@cli.command("config", short_help="Print the settings in force, and where from.")
def show_config() -> None:
    """Print the settings in force and where each came from; secrets are hidden."""
    settings = Settings.load()
    for name, (value, origin) in settings.origins().items():
        click.echo(f"{flag_of(name):20} {value:40} {origin}")


def _print_topics(states: dict[str, Any]) -> None:
    for state in states.values():
        click.echo(
            f"{state.name}: {counted(state.partitions, 'partition')}, "
            f"{counted(state.replicas, 'replica')}, "
            f"records up to {state.max_message_bytes} bytes"
        )


def main() -> None:
    """Run the command line."""
    logs.set_up_commands()
    cli(prog_name="streamapp")
