"""When a broker answered last: the sign by which a process notices that it has no cluster.

Kafka's clients keep silent while no broker can be reached, and go on by themselves when one
can. Pure code: the clock is given. Used by one thread that notes, and any that ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.units import format_duration


if TYPE_CHECKING:
    from collections.abc import Callable

SILENT_SECONDS: Final = 4.5
"""Brokers answer each fetch within 1.5 s, and a worker's heartbeats every 3 s."""

STATISTICS_SECONDS: Final = 1.0
"""How often librdkafka reports on its connections."""


class _Broker(msgspec.Struct):
    state: str = ""
    rxidle: int = -1  # microseconds since something was received; -1: never


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker] = {}


class BrokerContact:
    """Knows for how long no broker has answered."""

    def __init__(
        self, brokers: str, clock: Callable[[], float], *, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        """*clock* counts seconds and never goes back; fewer than *silent_seconds* are no silence.

        *brokers* are the addresses, for people.
        """
        self._brokers = brokers
        self._clock = clock
        self._patience = silent_seconds
        self._answered_at = clock()

    def note_answer(self) -> None:
        """Note that a broker answered just now."""
        self._answered_at = self._clock()

    def note_statistics(self, statistics: str) -> None:
        """Note what librdkafka's *statistics* (JSON) say of its connections."""
        found = msgspec.json.decode(statistics, type=_Statistics)
        idle = [b.rxidle / 1e6 for b in found.brokers.values() if b.state == "UP" and b.rxidle >= 0]
        if idle:
            self._answered_at = max(self._answered_at, self._clock() - min(idle))

    @property
    def reason(self) -> str:
        """That no broker has answered, where, and for how long; empty while one does."""
        seconds = self._clock() - self._answered_at
        if seconds < self._patience:
            return ""
        return f"no Kafka broker has answered for {format_duration(seconds)} at {self._brokers}"
