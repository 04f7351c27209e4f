"""Finds out why a delivery waits: a known cause, or the group's backlog if none is known.

Pure code: the caller gives the observations and the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from streamapp.protocol.presence import Presence, Reason, reasons_to_wait, unread_partitions
from streamapp.units import counted, format_duration


IDLE_SECONDS: Final = 5.0
"""The delivery waits if nothing was sent or persisted for so long."""

SLOW_SECONDS: Final = 30.0
"""The group is slow if nothing was persisted for so long, while blocks are sent."""

REMIND_SECONDS: Final = 30.0
"""Seconds until the same reason is reported again."""


class GroupSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery observes of Kafka and the group at one moment; durations in seconds.

    *no_broker* says that no broker answers; it is empty while one does. *is_group_up* and *unread*
    (records that the group has not read) are None while they are unknown. *unsent* and
    *unpersisted* are the seconds since a block was sent or persisted. *waits*: the run waits for
    acknowledgements. *now* is by the clock of the heartbeats of *machines*.
    """

    no_broker: str
    group: str
    is_group_up: bool | None
    unread: int | None
    machines: Sequence[Presence]
    topic: str
    partitions: int
    unsent: float
    unpersisted: float
    waits: bool
    now: float


def reason(snapshot: GroupSnapshot) -> Reason | None:
    """Return why the delivery waits or is slow; None if neither is the case."""
    if snapshot.no_broker:
        return Reason("brokers", snapshot.no_broker)
    found = reasons_to_wait(snapshot.machines, partitions=snapshot.partitions, now=snapshot.now)
    known = [m for m in snapshot.machines if m.heartbeat.state != "stopped"]
    are_silent = bool(known) and all(m.is_silent(snapshot.now) for m in known)
    if snapshot.is_group_up is False or are_silent:
        texts = [f"no machine of group {snapshot.group} is up", *(r.text for r in found)]
        return Reason("group", "; ".join(texts))
    if found:
        return Reason("; ".join(r.key for r in found), "; ".join(r.text for r in found))
    return _backlog(snapshot)


def _backlog(snapshot: GroupSnapshot) -> Reason | None:
    is_idle = min(snapshot.unsent, snapshot.unpersisted) >= IDLE_SECONDS
    if not snapshot.waits or not (is_idle or snapshot.unpersisted >= SLOW_SECONDS):
        return None
    text = f"nothing was persisted for {format_duration(snapshot.unpersisted)}"
    unread = unread_partitions(snapshot.machines, partitions=snapshot.partitions, now=snapshot.now)
    if snapshot.machines and unread:
        numbers = ", ".join(map(str, sorted(unread)))
        what = f"partition{'' if len(unread) == 1 else 's'} {numbers} of {snapshot.topic}"
        return Reason("unread", f"{text}; no machine reports that it reads {what}")
    if snapshot.unread is None:
        return Reason("unknown", f"{text}, and Kafka does not report why")
    records = counted(snapshot.unread, "record")
    text = f"{text}; group {snapshot.group} has {records} before it, see `streamapp status`"
    return Reason("backlog", text)


class Reminder:
    """Decides when a reason is reported: at once if it is new, then every `REMIND_SECONDS`."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._due = 0.0

    def is_due(self, found: Reason | None, now: float) -> bool:
        """Return whether *found* must be reported *now* (seconds, monotonic)."""
        is_new = found is not None and found.key != self._key
        self._key = found.key if found is not None else None
        if found is None or not (is_new or now >= self._due):
            return False
        self._due = now + REMIND_SECONDS
        return True
