"""The flags of settings show what they take."""

import click
import pytest

from streamapp.cli import options


@pytest.mark.parametrize(
    ("name", "metavar"),
    [
        ("compression", "[auto|zstd|gzip|none]"),
        ("links", "[fail|skip|follow]"),
        ("readers", "INTEGER"),
        ("max_blocks", "INTEGER"),
        ("block_size", "SIZE"),
        ("window", "SIZE"),
        ("ack_grace", "SECONDS"),
        ("retention_hours", "HOURS"),
        ("web_port", "PORT"),
        ("web_advertise", "HOST"),
        ("brokers", "HOST:PORT"),
        ("data_dir", "FOLDER"),
        ("state_dir", "FOLDER"),
        ("group_id", "TEXT"),
        ("release", None),
    ],
)
def test_metavar(name, metavar):
    """The help shows the unit, the choices or the type of a value, and nothing for a switch."""
    command = click.command()(options.settings_options(name)(lambda **_: None))

    assert [metavar] == [option.metavar for option in command.params]
