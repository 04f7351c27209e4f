"""Why a delivery waits: the first cause that is known, and Kafka's backlog only without one.

Pure code: what was seen is given, and the clock too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from streamapp.protocol.presence import Presence, Reason, reasons_to_wait, unread_partitions
from streamapp.units import counted, format_duration


IDLE_SECONDS: Final = 5.0
"""Neither sent nor persisted for so long: the delivery waits."""

SLOW_SECONDS: Final = 30.0
"""Not persisted for so long, though blocks are still being sent: the group is behind."""

REMIND_SECONDS: Final = 30.0


class GroupSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery sees of Kafka and the group at one moment; durations in seconds.

    *no_broker* is the reason of a `BrokerContact`, empty while a broker answers. *is_group_up*
    and *unread* (records before the group) are None while Kafka does not report them.
    *now* is the clock by which the heartbeats of *machines* were received.
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
    """Return why nothing, or less than there could be, is done; None while all goes well."""
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
    """Decides when a reason is said: at once when it is new, and then every half minute."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._due = 0.0

    def is_due(self, found: Reason | None, now: float) -> bool:
        """Return whether *found* is to be said *now* (seconds, monotonic)."""
        is_new = found is not None and found.key != self._key
        self._key = found.key if found is not None else None
        if found is None or not (is_new or now >= self._due):
            return False
        self._due = now + REMIND_SECONDS
        return True
