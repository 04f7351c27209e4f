"""Command line options made from the settings, so that a flag is written down once."""

from __future__ import annotations

import os

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from streamapp.errors import SettingsError
from streamapp.settings import SIZES, Settings, default_text, flag_of, label_of, variable_of


_Command = TypeVar("_Command", bound=Callable[..., Any])

REPEATED: Final = {"brokers": ",", "data_dir": os.pathsep}
"""Settings whose flag may be given several times, and what joins them in the variable."""

_METAVARS: Final = {
    "brokers": "HOST:PORT",
    "data_dir": "FOLDER",
    "data_folder": "FOLDER",
    "state_dir": "FOLDER",
    "web_host": "HOST",
    "web_advertise": "HOST",
    "web_port": "PORT",
    "scrub_every": "HOURS",
    "retention_hours": "HOURS",
    **dict.fromkeys(SIZES, "SIZE"),
    **dict.fromkeys(("max_attempts", "readers", "max_blocks", "replication"), "NUMBER"),
    **dict.fromkeys(("ack_grace", "retry_base", "block_timeout", "heartbeat"), "SECONDS"),
    **dict.fromkeys(("session_timeout", "watchdog_patience", "recovery_patience"), "SECONDS"),
}

COMMON: Final = ("machine_id", "group_id", "brokers", "topic_prefix")
TOPICS: Final = ("brokers", "topic_prefix", "replication", "retention_hours", "retention_size")
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
)


def settings_options(*names: str) -> Callable[[_Command], _Command]:
    """Return a decorator that adds the flags of the settings *names* to a command."""

    def decorate(command: _Command) -> _Command:
        for name in reversed(names):
            default = default_text(name)
            is_switch = Settings.model_fields[name].annotation is bool
            command = click.option(
                flag_of(name),
                name,
                default=None,
                is_flag=is_switch,
                multiple=name in REPEATED,
                metavar=_METAVARS.get(name),
                help=f"{Settings.model_fields[name].description}"
                + (f"  [default: {default}]" if default and not is_switch else ""),
            )(command)
        return command

    return decorate


def as_environment(flags: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that say what *flags* say; flags that were not given are left out.

    Raises:
        SettingsError: a folder's name cannot be said in a list of folders.
    """
    return {
        variable_of(name): _joined(name, value) if name in REPEATED else _text(value)
        for name, value in flags.items()
        if value is not None and value != ()
    }


def _joined(name: str, values: Iterable[object]) -> str:
    texts = [_text(value) for value in values]
    for text in texts:
        if REPEATED[name] == os.pathsep and os.pathsep in text:
            message = f"{label_of(name)}: {text!r} has {os.pathsep!r} in it, which parts folders"
            raise SettingsError(message)
    return REPEATED[name].join(texts)


def _text(value: object) -> str:
    return str(value.resolve()) if isinstance(value, Path) else str(value)
