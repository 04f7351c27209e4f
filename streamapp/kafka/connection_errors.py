"""Remembers why no broker can be used, as a sentence for users.

librdkafka writes many lines a second about failed connections, for its developers. They are logged
at DEBUG only. The newest error that a user can act on becomes a sentence, which commands and
deliveries report while they wait.
"""

from __future__ import annotations

import logging
import re
import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError as Code


if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

FRESH_SECONDS: Final = 30.0
"""A reason that did not occur again for so long is not reported any more."""

_LINE: Final = re.compile(r"(?:[a-z_]+://)?(?P<address>[^\s/]+)/\w+: (?P<text>.*)", re.DOTALL)
_LOGIN: Final = frozenset(
    {
        Code._AUTHENTICATION,  # noqa: SLF001 - librdkafka's own names for local errors
        Code.SASL_AUTHENTICATION_FAILED,
        Code.UNSUPPORTED_SASL_MECHANISM,
        Code.ILLEGAL_SASL_STATE,
    }
)
# A part of the error text, and the sentence for it; the first match counts.
_MEANINGS: Final = (
    ("security.protocol", "{} ends the connection at once: it may expect TLS or a login"),
    ("SSL", "the TLS connection to {} fails: wrong port, or a certificate that is not trusted"),
    ("Connection refused", "{} refuses the connection"),
    ("timed out", "{} does not answer"),
    ("unreachable", "{} cannot be reached from this machine"),
    ("No route to host", "{} cannot be reached from this machine"),
)


class LibraryLog:
    """Logs librdkafka's own lines at DEBUG, whatever their level: users cannot act on them."""

    def log(self, _level: int, *message: object) -> None:
        """Log a line."""
        logger.debug(*message)  # the first one is the format


class ConnectionErrors:
    """Remembers why a client cannot use its brokers; any thread may read `reason`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock* returns monotonic seconds."""
        self._clock = clock
        self._found = ("", -FRESH_SECONDS)  # a sentence, and when it was noted

    def note(self, error: Code) -> None:
        """Note *error*; librdkafka retries by itself."""
        logger.debug("kafka: %s", error.str())
        if found := sentence(error):
            self._found = found, self._clock()

    @property
    def reason(self) -> str:
        """The newest reason, without a full stop; empty if there is none."""
        text, noted_at = self._found
        return text if self._clock() - noted_at < FRESH_SECONDS else ""


def sentence(error: Code) -> str:
    """Return what *error* means for a user; empty if a user cannot act on it."""
    line = _LINE.match(error.str())
    address = line["address"] if line else "the broker"
    code = error.code()
    if code in _LOGIN:
        return f"{address} refuses the login"
    if code == Code._RESOLVE:  # noqa: SLF001 - librdkafka's own names for local errors
        return f"the host name of {address} is not known"
    if code not in {Code._SSL, Code._TRANSPORT, Code._TIMED_OUT}:  # noqa: SLF001
        return ""
    text = line["text"] if line else error.str()
    found = (meaning for mark, meaning in _MEANINGS if mark in text)
    return next(found, "").format(address)
