"""Faust's commands that need more than Faust gives them: `reset` and `completion`.

Faust finds a command by its class's name; these take the place of its own.
"""

from __future__ import annotations

import contextlib
import os

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import faust.cli.completion
import faust.cli.reset

from click.shell_completion import get_completion_class
from faust.cli.faust import cli

from streamapp import tablestate
from streamapp.reporting import reporting
from streamapp.store import BlockStore


if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamapp.app import StreamApp
    from streamapp.settings import Settings

DEFAULT_SHELL: Final = "bash"


class reset(faust.cli.reset.reset):  # noqa: N801 - the command's name
    """Delete the tables of this machine; they come back from Kafka.

    Refuses while a worker has the data folder.
    """

    def run_using_worker(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ANN401 - Faust's
        """Delete the tables, and let no worker begin meanwhile."""
        settings = cast("StreamApp", self.app).settings
        with reporting(), data_folders_taken(settings):
            tablestate.check_unused(settings.tables_dir)
            super().run_using_worker(*args, **kwargs)
            raise AssertionError  # Faust always exits


class completion(faust.cli.completion.completion):  # noqa: N801 - the command's name
    """Output what a shell evaluates to complete the commands of `faust`."""

    async def run(self) -> None:
        """Print the script for the user's shell; click has one for bash, zsh and fish."""
        name = Path(os.environ.get("SHELL") or DEFAULT_SHELL).name
        shell = get_completion_class(name) or get_completion_class(DEFAULT_SHELL)
        if shell is not None:
            self.say(shell(cli, {}, "faust", "_FAUST_COMPLETE").source())


@contextlib.contextmanager
def data_folders_taken(settings: Settings) -> Iterator[None]:
    """Have the machine's data folders, as far as they exist, as a worker has them.

    Raises:
        StoreBusyError: a worker has one of them.
        StoreError: none of them can be used.
    """
    paths = [path for path in settings.data_roots if path.exists()]
    store = BlockStore(paths, min_free=settings.min_free)
    if paths:
        store.open()
    try:
        yield
    finally:
        store.close()
