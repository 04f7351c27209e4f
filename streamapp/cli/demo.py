"""`streamapp demo`: sends a folder through an own Kafka to two workers."""

from __future__ import annotations

import sys

from pathlib import Path

import click

from streamapp.cli.groups import StrictCommand


@click.command(cls=StrictCommand, short_help="Try it: a Kafka, two workers and some files.")
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
    from streamapp.trials.demo import run  # noqa: PLC0415 - light start

    sys.exit(run.run(folder.resolve(), data=data and data.resolve(), keep=keep))
