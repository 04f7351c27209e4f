"""Faust's commands that need more than Faust gives them.

Faust finds a command by its class's name; these classes replace its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import click
import faust.cli.base
import faust.cli.completion
import faust.cli.model
import faust.cli.reset
import faust.cli.send

from click.shell_completion import get_completion_class
from faust.cli.faust import cli

from streamapp.click_errors import ReportedError, reporting
from streamapp.errors import ClusterError, SettingsError, StreamAppError, TopicError
from streamapp.kafka import clients
from streamapp.store import BlockStore
from streamapp.worker import table_recovery


if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamapp.settings import Settings
    from streamapp.worker.types import WorkerApp

DEFAULT_SHELL: Final = "bash"

SEND_SECONDS: Final = 30.0
"""Seconds that Kafka may take to accept a record of `send`; Faust alone waits for ever."""


class _InOneLine(faust.cli.base.AppCommand):
    """A command that reports its failure in one line and an exit code, without a traceback."""

    _failure: StreamAppError | None = None

    async def execute(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Faust's signature
        """Execute the command; its exception is reported when Faust has stopped."""
        try:
            await super().execute(*args, **kwargs)
        except StreamAppError as error:
            self._failure = error
        except click.UsageError as error:
            self._failure = SettingsError(error.format_message())
        except TimeoutError:
            self._failure = ClusterError(f"Kafka did not accept it within {SEND_SECONDS:.0f} s")
        except Exception as error:  # noqa: BLE001 - errors of Faust and aiokafka have no common base
            self._failure = ClusterError(str(error) or type(error).__name__)

    def run_using_worker(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ANN401 - Faust's
        """Run the command, and report its exception."""
        try:
            super().run_using_worker(*args, **kwargs)
        finally:
            if self._failure is not None:
                ReportedError(self._failure).show()
                sys.exit(self._failure.exit_code)


class model(_InOneLine, faust.cli.model.model):  # noqa: N801 - the command's name
    """Show model detail."""


class send(_InOneLine, faust.cli.send.send):  # noqa: N801 - the command's name
    """Send a record to a topic or an agent; the topic must exist."""

    async def run(self, entity: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Faust's
        """Send the record, and wait `SEND_SECONDS` at most."""
        await asyncio.to_thread(self._check, entity)
        async with asyncio.timeout(SEND_SECONDS):
            await super().run(entity, *args, **kwargs)

    def _check(self, entity: str) -> None:
        """Check that the agent or topic exists: aiokafka waits for ever for one that does not.

        Raises:
            SettingsError: there is no such agent.
            TopicError: there is no such topic.
            ClusterError: no broker answers.
        """
        settings = cast("WorkerApp", self.app).settings
        if entity.startswith("@"):
            try:
                self.to_topic(entity)
            except (AttributeError, ImportError, ValueError) as error:
                message = f"there is no agent {entity!r}: see `faust -A streamapp.app agents`"
                raise SettingsError(message) from error
        elif entity not in clients.topics(clients.admin(settings), settings):
            raise TopicError(f"there is no topic {entity!r}")


class reset(faust.cli.reset.reset):  # noqa: N801 - the command's name
    """Delete the tables of this machine; they come back from Kafka.

    Refuses while a worker has the data folder.
    """

    def run_using_worker(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ANN401 - Faust's
        """Delete the tables, while no worker can start."""
        settings = cast("WorkerApp", self.app).settings
        with reporting(), data_folders_taken(settings):
            table_recovery.check_unused(settings.tables_dir)
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
    """Lock the machine's data folders, as far as they exist, as a worker does.

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
