"""Keeps the log readable: no line twice, nothing that a terminal would obey.

Names, keys and errors in a line come from strangers, so control characters are escaped. While
a broker is away Kafka's client logs the same 25 times a second, and a stranger can have a
worker log as often as he sends: equal lines are counted, and the count is logged later. No
setting of Faust or aiokafka slows that down (faust-streaming#624).
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
"""Libraries whose INFO describes every offset that they read."""

LIBRARY_SECONDS: Final = 30.0
"""How long a library's line is not logged again, whatever stands in it."""

EQUAL_SECONDS: Final = 10.0
"""How long an equal line of ours is not logged again."""

WARNINGS: Final = 20
"""Warnings of one kind in that time: each is another record's, and all are counted."""

MAX_REMEMBERED: Final = 1000

CONTINUED: Final = "    "
"""What a line begins with that belongs to the one before: no text can look like another line."""


class Service(Protocol):
    """A class of Faust's services, which log by the module of the class."""

    logger: logging.Logger


_Service = TypeVar("_Service", bound=Service)


class Rule(NamedTuple):
    """What counts as the same, and how often it is logged in how many seconds."""

    key: Hashable
    seconds: float
    lines: int


class Window(msgspec.Struct):
    """What was logged and what was counted since *until* was set."""

    first: logging.LogRecord
    until: float
    logged: int = 0
    counted: int = 0


def rules_of(record: logging.LogRecord) -> list[Rule]:
    """Return what *record* may repeat: errors of ours only an equal line, last words nothing."""
    place = (record.pathname, record.lineno, record.levelno)
    if record.levelno >= logging.CRITICAL:
        return []
    if record.name.startswith(CHATTY):
        # By the place that logs it: there may be another number in it each time.
        return [Rule(place, LIBRARY_SECONDS, 1)]
    equal = Rule((*place, hash(text_of(record))), EQUAL_SECONDS, 1)
    if record.levelno == logging.WARNING:
        return [equal, Rule(place, EQUAL_SECONDS, WARNINGS)]
    return [equal]


def text_of(record: logging.LogRecord) -> str:
    """Return what *record* says; a filter may not fail, whatever a library gave it."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - an argument that does not fit, or that cannot be printed
        return str(record.msg)


class RepeatFilter(logging.Filter):
    """Passes a line's first occurrences, and logs later how many more there were."""

    def __init__(
        self, handler: logging.Handler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*handler* gets the counts."""
        super().__init__()
        self._handler = handler
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[Hashable, Window] = {}
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* is to be logged."""
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
        """Log all that was counted until now."""
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
        """Forget the windows that are over; return those of which something was counted."""
        over = {k: w for k, w in self._windows.items() if all_of_them or w.until <= now}
        for key in over:
            del self._windows[key]
        return [window for window in over.values() if window.counted]

    def _set_timer(self, now: float) -> None:
        """Have the counts logged when nothing else is."""
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
    """Formats as *inner* does, with all escaped that a terminal or a reader of lines would obey."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as text; only what the program itself wrote has several lines."""
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
    """Return *text* escaped line by line, all but the first marked as what they are."""
    return f"\n{CONTINUED}".join(printable(line) for line in text.split("\n"))


def make_readable(handler: logging.Handler, *, fold: bool = True) -> None:
    """Have *handler* escape what it writes and, with *fold*, count what is equal."""
    if not isinstance(handler.formatter, ReadableFormatter):
        handler.setFormatter(ReadableFormatter(handler.formatter))
    if fold and not any(isinstance(known, RepeatFilter) for known in handler.filters):
        counting = RepeatFilter(handler)
        handler.addFilter(counting)
        atexit.register(counting.flush)


def as_library(service: type[_Service]) -> type[_Service]:
    """Have what Faust logs of the class *service* count as Faust's, and not as this program's."""
    service.logger = logging.getLogger("faust.services")
    return service


def set_up_commands() -> None:
    """Have warnings of a command readable, which go to standard error without any handler."""
    if logging.lastResort is not None:
        make_readable(logging.lastResort)


def quiet_libraries() -> None:
    """Leave the log to what concerns files and machines, unless everything is wanted."""
    root = logging.getLogger()
    is_all_wanted = root.isEnabledFor(logging.DEBUG)
    for name in () if is_all_wanted else CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in root.handlers:
        make_readable(handler, fold=not is_all_wanted)
