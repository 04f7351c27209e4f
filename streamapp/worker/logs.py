"""Keeps the log readable: repeated lines are counted, and control characters are escaped.

Names, keys and errors in a line may come from unknown producers. While a broker fails, Kafka's
client logs the same line 25 times a second, and a producer can cause any number of lines. So
equal lines are counted, and the count is logged later. Neither Faust nor aiokafka has a setting
for it (faust-streaming#624).
"""

from __future__ import annotations

import atexit
import copy
import logging
import threading
import time

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

import msgspec

from streamapp.protocol.filenames import printable


if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

CHATTY: Final = ("faust", "mode", "aiokafka", "aiohttp.access")
"""Libraries that log every offset that they read at INFO."""

LIBRARY_SECONDS: Final = 30.0
"""Seconds for which a line of a library is not logged again, with any arguments."""

EQUAL_SECONDS: Final = 10.0
"""Seconds for which an equal line of this program is not logged again."""

WARNINGS: Final = 20
"""Warnings of one kind that are logged in `EQUAL_SECONDS`; further ones are counted."""

MAX_REMEMBERED: Final = 1000

CONTINUED: Final = "    "
"""Prefix of a line that continues the one before, so that no text looks like another line."""


class Service(Protocol):
    """A class of Faust's services, which have a logger named after their module."""

    logger: logging.Logger


_Service = TypeVar("_Service", bound=Service)


class Rule(NamedTuple):
    """Records with the same *key* are logged *lines* times in *seconds*."""

    key: Hashable
    seconds: float
    lines: int


class Window(msgspec.Struct):
    """The records of one key until *until*: how many were logged, and how many only counted."""

    first: logging.LogRecord
    until: float
    logged: int = 0
    counted: int = 0


def rules_of(record: logging.LogRecord) -> list[Rule]:
    """Return the rules for *record*; a critical one has none."""
    place = (record.pathname, record.lineno, record.levelno)
    if record.levelno >= logging.CRITICAL:
        return []
    if record.name.startswith(CHATTY):
        # By the line of code, because the arguments may differ each time.
        return [Rule(place, LIBRARY_SECONDS, 1)]
    equal = Rule((*place, hash(text_of(record))), EQUAL_SECONDS, 1)
    if record.levelno == logging.WARNING:
        return [equal, Rule(place, EQUAL_SECONDS, WARNINGS)]
    return [equal]


def text_of(record: logging.LogRecord) -> str:
    """Return the message of *record*; does not fail on a library's wrong arguments."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - an argument that does not fit, or that cannot be printed
        return str(record.msg)


class RepeatFilter(logging.Filter):
    """Passes the first records of each kind, and logs later how many more there were."""

    def __init__(
        self, handler: logging.Handler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*handler* receives the counts; *clock* returns seconds that only increase."""
        super().__init__()
        self._handler = handler
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[Hashable, Window] = {}
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* is logged."""
        if getattr(record, "is_count", False):
            return True
        now = self._clock()
        with self._lock:
            passes = self._passes(record, now)
            over = self._over(now, all_of_them=len(self._windows) >= MAX_REMEMBERED)
            self._set_timer(now)
        self._log_counts(over)
        return passes

    def flush(self) -> None:
        """Log all counts now."""
        with self._lock:
            over = self._over(self._clock(), all_of_them=True)
        self._log_counts(over)

    def _passes(self, record: logging.LogRecord, now: float) -> bool:
        for rule in rules_of(record):
            window = self._windows.get(rule.key)
            if window is None or window.until <= now:
                if window is not None and window.counted:
                    self._windows[rule.key, now] = window  # its count is still to be logged
                window = self._windows[rule.key] = Window(record, now + rule.seconds)
            if window.logged >= rule.lines:
                window.counted += 1
                return False
            window.logged += 1
        return True

    def _over(self, now: float, *, all_of_them: bool) -> list[Window]:
        """Remove the windows that are over; return those with a count."""
        over = {k: w for k, w in self._windows.items() if all_of_them or w.until <= now}
        for key in over:
            del self._windows[key]
        return [window for window in over.values() if window.counted]

    def _set_timer(self, now: float) -> None:
        """Start a timer that logs the counts if no further record comes."""
        waiting = [window.until for window in self._windows.values() if window.counted]
        if waiting and self._timer is None:
            self._timer = threading.Timer(max(0.0, min(waiting) - now), self._on_timer)
            self._timer.daemon = True
            try:
                self._timer.start()
            except RuntimeError:  # Python ends
                self._timer = None

    def _on_timer(self) -> None:
        now = self._clock()
        with self._lock:
            self._timer = None
            over = self._over(now, all_of_them=False)
            self._set_timer(now)
        self._log_counts(over)

    def _log_counts(self, windows: list[Window]) -> None:
        for window in windows:
            count = copy.copy(window.first)
            more = f"{window.counted:,} more like it"
            count.msg, count.args = f"… and {more}: %s", (text_of(window.first)[:200],)
            count.exc_info = count.exc_text = count.stack_info = None
            count.created = time.time()
            count.is_count = True
            self._handler.handle(count)


class ReadableFormatter(logging.Formatter):
    """Formats as *inner* does, with control characters escaped."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as text; only text of the program itself has several lines."""
        safe = copy.copy(record)
        text = record.getMessage()
        has_lines = bool(record.args) and "\n" in str(record.msg)
        safe.msg, safe.args = continued(text) if has_lines else printable(text), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            safe.exc_text = CONTINUED + continued(record.exc_text)
        if record.stack_info:
            safe.stack_info = CONTINUED + continued(record.stack_info)
        return self._inner.format(safe)


def continued(text: str) -> str:
    """Return *text* escaped line by line; all lines but the first begin with `CONTINUED`."""
    return f"\n{CONTINUED}".join(printable(line) for line in text.split("\n"))


def make_readable(handler: logging.Handler, *, fold: bool = True) -> None:
    """Let *handler* escape its output and, with *fold*, count repeated records."""
    if not isinstance(handler.formatter, ReadableFormatter):
        handler.setFormatter(ReadableFormatter(handler.formatter))
    if fold and not any(isinstance(known, RepeatFilter) for known in handler.filters):
        counting = RepeatFilter(handler)
        handler.addFilter(counting)
        atexit.register(counting.flush)


def as_library(service: type[_Service]) -> type[_Service]:
    """Let Faust's records about the class *service* count as Faust's, not as this program's."""
    service.logger = logging.getLogger("faust.services")
    return service


def set_up_commands() -> None:
    """Make warnings of a command readable, which Python writes to standard error."""
    if logging.lastResort is not None:
        make_readable(logging.lastResort)


def quiet_libraries() -> None:
    """Log only warnings of libraries, unless the level is DEBUG."""
    root = logging.getLogger()
    is_all_wanted = root.isEnabledFor(logging.DEBUG)
    for name in () if is_all_wanted else CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in root.handlers:
        make_readable(handler, fold=not is_all_wanted)
