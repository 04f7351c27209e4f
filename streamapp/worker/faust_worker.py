"""The worker as Faust runs it: it is made ready before Faust begins.

Every command of Faust loads the application, and the program `faust` loads it twice. Only
`faust worker` makes one of these, so it alone takes the data folder.
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
        """Make ready what the worker needs, before Faust prints anything.

        Raises:
            SystemExit: something is missing; what it is was written in one line.
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
        """Have what Faust set up write lines that can be read."""
        super().on_setup_root_logger(logger, level)
        logs.quiet_libraries()

    def install_signal_handlers(self) -> None:
        """Have signals stop the worker, now that there is something to stop."""
        super().install_signal_handlers()
        self._signals.worker_runs(lambda: self.loop.call_soon_threadsafe(self._on_sigterm))
