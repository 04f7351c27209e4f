"""The time since a broker answered last, by which a process notices that no broker is reachable.

Kafka's clients report nothing while they cannot reach a broker, and reconnect by themselves. Pure
code: the clock is given. One thread notes answers; any thread may read `reason`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.units import format_duration


if TYPE_CHECKING:
    from collections.abc import Callable

SILENT_SECONDS: Final = 4.5
"""Brokers answer a fetch within 1.5 s and a worker's heartbeat every 3 s."""

STATISTICS_SECONDS: Final = 1.0
"""How often librdkafka reports statistics of its connections."""


class _Broker(msgspec.Struct):
    state: str = ""
    rxidle: int = -1  # microseconds since something was received; -1: never


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker] = {}


class BrokerContact:
    """Measures for how long no broker has answered."""

    def __init__(
        self, brokers: str, clock: Callable[[], float], *, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        """*clock* returns monotonic seconds; a shorter silence than *silent_seconds* is ignored.

        *brokers* are the addresses to show in `reason`.
        """
        self._brokers = brokers
        self._clock = clock
        self._patience = silent_seconds
        self._answered_at = clock()

    def note_answer(self) -> None:
        """Note that a broker answered just now."""
        self._answered_at = self._clock()

    def note_statistics(self, statistics: str) -> None:
        """Take the newest answer from librdkafka's *statistics* (JSON)."""
        found = msgspec.json.decode(statistics, type=_Statistics)
        idle = [b.rxidle / 1e6 for b in found.brokers.values() if b.state == "UP" and b.rxidle >= 0]
        if idle:
            self._answered_at = max(self._answered_at, self._clock() - min(idle))

    @property
    def reason(self) -> str:
        """The brokers that do not answer, and for how long; empty while one answers."""
        seconds = self._clock() - self._answered_at
        if seconds < self._patience:
            return ""
        return f"no Kafka broker has answered for {format_duration(seconds)} at {self._brokers}"
