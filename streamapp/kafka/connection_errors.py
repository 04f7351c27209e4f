"""Why no broker can be used, as a sentence.

librdkafka writes a line for each failed connection, many a second, made for its developers.
They go to the log at DEBUG only. The newest reason that a user can do something about is kept
here, and is said where a command or a delivery has to wait.
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
"""A reason that did not occur again for so long is gone."""

_LINE: Final = re.compile(r"(?:[a-z_]+://)?(?P<address>[^\s/]+)/\w+: (?P<text>.*)", re.DOTALL)
_LOGIN: Final = frozenset(
    {
        Code._AUTHENTICATION,  # noqa: SLF001 - librdkafka's own names for local errors
        Code.SASL_AUTHENTICATION_FAILED,
        Code.UNSUPPORTED_SASL_MECHANISM,
        Code.ILLEGAL_SASL_STATE,
    }
)
# What the text of a broken connection has in it, and what that means; the first counts.
_MEANINGS: Final = (
    ("security.protocol", "{} ends the connection at once: it may expect TLS or a login"),
    ("SSL", "the TLS connection to {} fails: wrong port, or a certificate that is not trusted"),
    ("Connection refused", "{} refuses the connection"),
    ("timed out", "{} does not answer"),
    ("unreachable", "{} cannot be reached from this machine"),
    ("No route to host", "{} cannot be reached from this machine"),
)


class LibraryLog:
    """Takes librdkafka's own lines, whatever level they claim: nobody else can use them."""

    def log(self, _level: int, *message: object) -> None:
        """Write a line, for who debugs."""
        logger.debug(*message)  # the format comes first


class ConnectionErrors:
    """Remembers why a client cannot use its brokers; may be asked from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock* counts seconds and never goes back."""
        self._clock = clock
        self._found = ("", -FRESH_SECONDS)  # a sentence, and when it was noted

    def note(self, error: Code) -> None:
        """Note *error*; librdkafka itself goes on and tries again after it."""
        logger.debug("kafka: %s", error.str())
        if found := sentence(error):
            self._found = found, self._clock()

    @property
    def reason(self) -> str:
        """The newest reason, without a full stop; empty when there is none."""
        text, noted_at = self._found
        return text if self._clock() - noted_at < FRESH_SECONDS else ""


def sentence(error: Code) -> str:
    """Return what *error* means to a user; empty when it says nothing that is of use."""
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
