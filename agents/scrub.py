"""Starts the scrubber, which reads stored blocks in the background, and ends it with the worker.

A block that decayed on disk is published as lost, so that the producer's next run sends it again.
A scrub that fails does not end the worker.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from typing import Final

from streamapp.app import app
from streamapp.worker.scrubber import Scrub


logger = logging.getLogger(__name__)

NOTE: Final = "scrub.json"
"""The file with the scrubber's position, in the folder of the tables."""

AGAIN_SECONDS: Final = 600.0
"""Seconds until a scrub that failed is tried again."""


@app.task  # type: ignore[untyped-decorator]
async def scrub_blocks() -> None:
    """Publish losses of an earlier run; then read all blocks repeatedly, until the worker stops."""
    stop = threading.Event()
    scrub = Scrub(app.context, stop, app.settings.tables_dir / NOTE)
    try:
        while True:
            try:
                await scrub.publish_unpublished()
                if not app.settings.scrub_rate:
                    return
                await scrub.run()
            except Exception:
                logger.exception("the stored blocks cannot be read again now")
                await asyncio.sleep(AGAIN_SECONDS)
    finally:
        stop.set()  # the thread that reads ends soon
