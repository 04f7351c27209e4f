"""Makes command line options of the settings, and says which command takes which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from streamapp.settings import REPEATED, Settings, default_text, flag_of, metavar_of


_Command = TypeVar("_Command", bound=Callable[..., Any])

COMMON: Final = ("machine_id", "group_id", "brokers", "topic_prefix")
_NEW_TOPICS: Final = ("replication", "retention_hours", "retention_size")
TOPICS: Final = ("brokers", "topic_prefix", *_NEW_TOPICS)
PRODUCER: Final = (
    *COMMON,
    "data_folder",
    "state_dir",
    "block_size",
    "frame_size",
    "compression",
    "max_attempts",
    "ack_grace",
    "retry_base",
    "readers",
    "send_buffer",
    "window",
    "release",
    "ignore_retention",
    "links",
    "special",
    *_NEW_TOPICS,
)
MACHINES: Final = ("group_id", "brokers", "topic_prefix")
VERIFY: Final = ("machine_id", "data_dir", "group_id", "brokers")
WORKER: Final = (
    *COMMON,
    "data_dir",
    "state_dir",
    "max_blocks",
    "min_free",
    "file_mode",
    "block_timeout",
    "heartbeat",
    "session_timeout",
    "watchdog_patience",
    "recovery_patience",
    "scrub_rate",
    "scrub_every",
    "web_host",
    "web_port",
    "web_advertise",
    *_NEW_TOPICS,
)

JSON: Final = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def settings_options(*names: str) -> Callable[[_Command], _Command]:
    """Return a decorator that adds the flags of the settings *names* to a command.

    The values are not converted: `Settings.load` does that, and reports what is wrong.
    """

    def decorate(command: _Command) -> _Command:
        for name in reversed(names):
            field, default = Settings.model_fields[name], default_text(name)
            is_switch = field.annotation is bool
            command = click.option(
                flag_of(name),
                name,
                default=None,
                is_flag=is_switch,
                multiple=name in REPEATED,
                metavar=None if is_switch else metavar_of(name),
                help=f"{field.description}"
                + (f"  [default: {default}]" if default and not is_switch else ""),
            )(command)
        return command

    return decorate
