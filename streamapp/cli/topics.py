"""`streamapp topics`: creates and checks the Kafka topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from streamapp.cli import options
from streamapp.cli.groups import StrictGroup
from streamapp.settings import Settings
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamapp.kafka.topic_admin import TopicState


@click.group(cls=StrictGroup)
def topics() -> None:
    """Create and check the Kafka topics."""


@topics.command("create")
@options.settings_options(*options.TOPICS)
def topics_create(**flags: object) -> None:
    """Create the topics that are missing, and check all."""
    from streamapp.kafka import topic_admin  # noqa: PLC0415 - light start

    _print_topics(topic_admin.ensure(Settings.load(**flags)))


@topics.command("check")
@options.settings_options("brokers", "topic_prefix")
def topics_check(**flags: object) -> None:
    """Check that the topics are there and as they must be."""
    from streamapp.kafka import topic_admin  # noqa: PLC0415 - light start

    _print_topics(topic_admin.check(Settings.load(**flags)))


def _print_topics(states: Mapping[str, TopicState]) -> None:
    for state in states.values():
        click.echo(
            f"{state.name}: {counted(state.partitions, 'partition')}, "
            f"{counted(state.replicas, 'replica')}, "
            f"records up to {state.max_message_bytes} bytes"
        )
