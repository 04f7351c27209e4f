"""`streamapp broker`: runs the embedded Apache Kafka."""

from __future__ import annotations

import sys

from pathlib import Path

import click

from streamapp.cli.groups import StrictGroup


@click.group(cls=StrictGroup, short_help="Run an Apache Kafka on this machine, for trials.")
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
