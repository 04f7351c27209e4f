"""Heartbeats of machines, and what is known of a machine by them."""

from streamapp.protocol.messages import Heartbeat
from streamapp.protocol.presence import Presence


NOW = 1_000_000.0
DAY = 86_400.0
INTERVAL = 3.0


def beat(at, machine="w1", **fields):
    """A heartbeat that was sent at *at* by the machine's own clock."""
    values = {"group": "g", "state": "running", "interval": INTERVAL, "session_timeout": 30.0}
    return Heartbeat(machine=machine, at=at, **values | fields)


def presence(*, silent=0.0, now=NOW, **fields):
    """A machine whose last heartbeat was received *silent* seconds before *now*."""
    return Presence(heartbeat=beat(now - silent, **fields), received_at=now - silent)
