"""Which machines of a group are up, judged by when their heartbeats were received.

Pure code; *now* is the reader's clock, in seconds since 1970. The sender's clock may be a day
ahead or behind. It only helps to distinguish a heartbeat that was just sent from an old one: if
both clocks agree, or if heartbeats arrive at the interval at which they were sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from streamapp.protocol.filenames import printable
from streamapp.protocol.messages import Heartbeat, Seconds
from streamapp.units import format_duration


if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_INTERVAL: Final = 3.0
"""Seconds between the heartbeats of a worker that does not report its interval."""

MISSED_HEARTBEATS: Final = 5
"""A machine is not up when this many heartbeats are missing."""

AGREE_SECONDS: Final = 2.0
"""Clocks agree if they differ by at most this; a heartbeat takes a moment to arrive."""

MAX_MACHINES: Final = 1000
"""Machines in a roster at most: unknown producers may write any number of names."""


class Reason(NamedTuple):
    """Why the group waits; *key* stays the same while only numbers in *text* change."""

    key: str
    text: str


class Presence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One machine's last heartbeat, and when it was received.

    *ahead* is the machine's clock minus the reader's when it was received, in seconds.
    """

    heartbeat: Heartbeat
    received_at: Seconds = 0.0
    ahead: float = 0.0

    @classmethod
    def first(cls, heartbeat: Heartbeat, *, now: float) -> Presence:
        """Return the presence of a machine whose first *heartbeat* was read at *now*.

        The record may be days old, so an old heartbeat does not count as received now.
        """
        ahead = heartbeat.at - now
        received_at = now if ahead >= -AGREE_SECONDS else heartbeat.at
        return cls(heartbeat=heartbeat, received_at=received_at, ahead=ahead)

    def with_heartbeat(self, heartbeat: Heartbeat, *, now: float) -> Presence:
        """Return the presence after *heartbeat*; a repeated one changes nothing.

        An older one of the same run is ignored, unless it is new by the reader's clock: the
        machine's clock may have been set back.
        """
        before, ahead = self.heartbeat, heartbeat.at - now
        is_new = abs(ahead) <= AGREE_SECONDS
        is_same_run = (heartbeat.start_id, heartbeat.started_at) == (
            before.start_id,
            before.started_at,
        )
        is_older = is_same_run and heartbeat.at < before.at <= now + AGREE_SECONDS
        if heartbeat == before or (is_older and not is_new):
            return self
        sent_apart = heartbeat.at - before.at
        came_as_sent = abs(ahead - self.ahead) <= sent_apart / 2
        received_at = now
        if not (is_new or came_as_sent) and ahead < 0:
            received_at = max(self.received_at, heartbeat.at)
        return Presence(heartbeat=heartbeat, received_at=received_at, ahead=ahead)

    def silent_seconds(self, now: float) -> float:
        """Return the seconds since the last heartbeat was received."""
        return max(0.0, now - (self.received_at or self.heartbeat.at))

    def is_silent(self, now: float) -> bool:
        """Return whether a heartbeat is overdue."""
        return self.silent_seconds(now) >= silent_after(self.heartbeat)

    def is_up(self, now: float) -> bool:
        """Return whether the machine did not stop, and few heartbeats are missing."""
        patience = MISSED_HEARTBEATS * interval_of(self.heartbeat)
        return self.heartbeat.state != "stopped" and self.silent_seconds(now) < patience


class Roster:
    """The machines of one group, by their heartbeats. Any thread may read it."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._machines: dict[str, Presence] = {}

    def receive(self, heartbeat: Heartbeat, *, now: float) -> None:
        """Add *heartbeat*; those of other groups are ignored."""
        if heartbeat.group != self._group:
            return
        known = self._machines.get(heartbeat.machine)
        if known is not None:
            self._machines[heartbeat.machine] = known.with_heartbeat(heartbeat, now=now)
        elif len(self._machines) < MAX_MACHINES:
            self._machines[heartbeat.machine] = Presence.first(heartbeat, now=now)

    def forget(self, machine: str) -> None:
        """Remove *machine*: its heartbeats were deleted from the topic."""
        self._machines.pop(machine, None)

    @property
    def machines(self) -> list[Presence]:
        """All machines with a heartbeat, in order of their names."""
        found = self._machines.copy()
        return [found[name] for name in sorted(found)]


def silent_after(heartbeat: Heartbeat) -> float:
    """Return the seconds after which the next heartbeat is overdue: 5 with the default."""
    return 1.5 * interval_of(heartbeat) + 0.5


def interval_of(heartbeat: Heartbeat) -> float:
    """Return the interval between the sender's heartbeats, in seconds."""
    return heartbeat.interval or DEFAULT_INTERVAL


def reasons_to_wait(machines: Iterable[Presence], *, partitions: int, now: float) -> list[Reason]:
    """Return why the group does not read all *partitions* of the blocks' topic, by its heartbeats.

    A silent machine is a reason while live machines do not report all partitions: some may
    have been assigned to it after its last heartbeat.
    """
    known = [m for m in machines if m.heartbeat.state != "stopped"]
    heard = [m for m in known if not m.is_silent(now)]
    unread = unread_partitions(known, partitions=partitions, now=now)
    reasons = []
    for machine in known:
        beat = machine.heartbeat
        if not machine.is_silent(now):
            if beat.state == "holding":
                text = f"{beat.machine} holds: {printable(beat.reason)}"
                reasons.append(Reason(f"{beat.machine} holds", text))
        elif unread and (_is_awaited(machine, now) or unread.intersection(beat.partitions)):
            text = _silence(machine, now, has_others=bool(heard))
            reasons.append(Reason(f"{beat.machine} is silent", text))
    return reasons


def unread_partitions(
    machines: Iterable[Presence], *, partitions: int, now: float
) -> frozenset[int]:
    """Return those of the *partitions* partitions that no live machine reports."""
    heard = (m.heartbeat.partitions for m in machines if not m.is_silent(now))
    return frozenset(range(partitions)).difference(*heard)


def _is_awaited(machine: Presence, now: float) -> bool:
    """Return whether Kafka still counts *machine* as a member of the group."""
    return machine.silent_seconds(now) < machine.heartbeat.session_timeout


def _silence(machine: Presence, now: float, *, has_others: bool) -> str:
    beat, seconds = machine.heartbeat, machine.silent_seconds(now)
    text = f"{beat.machine} is silent for {format_duration(seconds)}"
    if has_others and _is_awaited(machine, now):
        return f"{text}; others take over within {beat.session_timeout:.0f} s"
    return f"{text}; nobody has taken its partitions over"
