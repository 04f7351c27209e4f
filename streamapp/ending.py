"""Ends a worker that was told to stop, also when its brokers do not let it.

Faust flushes and commits before it ends, and waits for a broker as long as it takes. Nothing
is lost by ending anyway: what is not acknowledged comes again.
"""

from __future__ import annotations

import logging
import os
import threading

from typing import Final


logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 12.0
"""How long a stop may take; the promise is 15 s, and systemd's and Docker's patience longer."""


def end_within(seconds: float = STOP_SECONDS) -> threading.Timer:
    """End the process in so many *seconds*, if it did not end by itself."""

    def end() -> None:
        logger.warning("not stopped after %.0f s (does a broker answer?): ending anyway", seconds)
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer
