"""Keeps the log readable while a broker is away: Kafka's client says the same 25 times a second.

No setting of Faust or aiokafka slows that down (faust-streaming#624).
"""

from __future__ import annotations

import logging
import time

from typing import Final


CHATTY: Final = ("faust", "mode", "aiokafka", "aiohttp.access")
"""Libraries whose INFO describes every offset that they read."""

REPEAT_SECONDS: Final = 30.0
MAX_REMEMBERED: Final = 1000


class NotAgain(logging.Filter):
    """Lets a library say the same thing only every so often; our own lines always pass."""

    def __init__(self, seconds: float = REPEAT_SECONDS) -> None:
        """*seconds*: how long a line is not said again."""
        super().__init__()
        self._seconds = seconds
        self._said: dict[tuple[str, int, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* is to be logged."""
        if not record.name.startswith(CHATTY):
            return True
        # By the place that says it: what it says may have another number in it each time.
        place = (record.pathname, record.lineno, record.levelname)
        now = time.monotonic()
        if now - self._said.get(place, -self._seconds) < self._seconds:
            return False
        if len(self._said) >= MAX_REMEMBERED:
            self._said.clear()
        self._said[place] = now
        return True


def quiet_libraries() -> None:
    """Leave the log to what concerns files and machines, unless everything is wanted."""
    root = logging.getLogger()
    if root.isEnabledFor(logging.DEBUG):
        return
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in root.handlers:
        if not any(isinstance(known, NotAgain) for known in handler.filters):
            handler.addFilter(NotAgain())
