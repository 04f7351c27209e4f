"""Starts the reading of stored blocks in the background, and ends it with the worker.

A block that rots while nobody looks is found here and told as lost, so that the producer's
next run sends it again; but a scrub that fails must never end a worker that works.
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
AGAIN_SECONDS: Final = 600.0


@app.task  # type: ignore[untyped-decorator]
async def scrub_blocks() -> None:
    """Tell what was not told; then read all blocks again and again, until the worker stops."""
    stop = threading.Event()
    scrub = Scrub(app.context, stop, app.settings.tables_dir / NOTE)
    try:
        while True:
            try:
                await scrub.tell_untold()
                if not app.settings.scrub_rate:
                    return
                await scrub.run()
            except Exception:
                logger.exception("the stored blocks cannot be read again now")
                await asyncio.sleep(AGAIN_SECONDS)
    finally:
        stop.set()  # the thread that reads ends within a moment
