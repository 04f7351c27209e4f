"""The worker as Faust runs it: all that it needs is prepared before Faust starts.

For faust-streaming 0.15.3. Every command of Faust loads the application, and the program `faust`
loads it twice. Only `faust worker` creates a `Worker`, so only here the data folders are locked.
Delete when Faust has a hook that runs once, before `faust worker` prints anything.
"""

from __future__ import annotations

import sys

from typing import TYPE_CHECKING, Any, cast

import faust

from streamapp.click_errors import reporting
from streamapp.worker import assignor, consumer, logs, outputs, shutdown, startup


if TYPE_CHECKING:
    import logging

    from streamapp.worker.types import WorkerApp


class StreamWorker(faust.Worker):
    """A worker process: what `faust -A streamapp.app worker` and `streamapp worker` run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Faust's signature
        """Prepare what the worker needs, before Faust prints anything.

        Raises:
            SystemExit: something is missing; one line was written about it.
        """
        outputs.secure()
        logs.set_up_commands()
        self._signals = shutdown.SignalThread()
        self._signals.start()
        super().__init__(*args, **kwargs | {"stdout": sys.stdout, "stderr": sys.stderr})
        app = cast("WorkerApp", self.app)
        consumer.install_overrides(on_response=app.stats.broker_answered)
        assignor.read_members_with_limits(app.settings, str(app.conf.canonical_url))
        with reporting():
            startup.prepare(app)

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        """Make the log that Faust set up readable."""
        super().on_setup_root_logger(logger, level)
        logs.quiet_libraries()

    def install_signal_handlers(self) -> None:
        """Let signals stop the worker from now on."""
        super().install_signal_handlers()
        self._signals.worker_runs(lambda: self.loop.call_soon_threadsafe(self._on_sigterm))
