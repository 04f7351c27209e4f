"""Reads a machine's newest heartbeat, checks whether it is up, and forgets machines.

A machine is up if another heartbeat arrives. Clocks differ, so ages are not compared.
"""

from __future__ import annotations

import logging
import threading
import time

from typing import TYPE_CHECKING, Final

from streamapp.errors import BlockMalformedError, MachineInUseError
from streamapp.integrity import inventory
from streamapp.kafka import clients, publish, topic_admin
from streamapp.kafka.follow import Follower
from streamapp.protocol import messages as message_types
from streamapp.protocol.filenames import printable
from streamapp.protocol.messages import Heartbeat
from streamapp.protocol.presence import interval_of
from streamapp.protocol.routing import partition_of


if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import Message

    from streamapp.settings import Settings

logger = logging.getLogger(__name__)

LOOK_BACK: Final = 5000
"""Records that are read first; they include the last heartbeats of recent machines."""

BEATS: Final = 3
"""Heartbeats that are waited for before a machine counts as gone."""

MIN_WAIT_SECONDS: Final = 3.0
"""A broker may be slower than heartbeats that come very often."""

MAX_WAIT_SECONDS: Final = 300.0
"""Unknown producers may write any interval into a heartbeat."""

MAX_OTHERS: Final = 100
"""Other workers under this machine id that are distinguished at most."""

FORGOTTEN: Final = "the machine was forgotten (streamapp machines forget)"


class MachineWatch:
    """Follows the heartbeats of *machine* in the settings' group."""

    def __init__(self, settings: Settings, machine: str) -> None:
        self._group, self._machine = settings.group_id, machine
        self._key, self._old_key = message_types.machine_key(machine, self._group), machine.encode()
        self._stop = threading.Event()
        self._place = topic_admin.names(settings).status, partition_of(machine.encode())
        self._follower = Follower(clients.consumer(settings), [self._place], self._take)
        self._count = 0
        self._is_newest_old = True
        self.newest: Heartbeat | None = None
        self.has_old = False

    def read(self, *, whole: bool = False) -> Heartbeat | None:
        """Read up to now; return the newest heartbeat, None when there is none.

        With *whole*, `has_old` is set: whether a heartbeat has the key of an older version.

        Raises:
            ClusterError: the topic cannot be read.
        """
        if not whole:
            look_back = {self._place: LOOK_BACK}
            self._follower.read_to(
                self._follower.begin(self._stop, look_back=look_back), self._stop
            )
        if not self._count:  # it has been silent for long, or never existed
            self._follower.read_to(self._follower.begin(self._stop), self._stop)
        return self.newest

    def is_up(self, is_other: Callable[[Heartbeat], bool] = lambda _: True) -> bool:
        """Return whether a heartbeat arrives, within some intervals, for which *is_other* holds.

        The newest heartbeat has the interval.

        Raises:
            ClusterError: the topic cannot be read.
        """
        deadline = time.monotonic() + (wait_seconds(self.newest) if self.newest else 0.0)
        seen = self._count
        while time.monotonic() < deadline:
            if self._count > seen and self.newest is not None:
                seen = self._count
                if self.newest.state != "stopped" and is_other(self.newest):
                    return True
            self._follower.read_some()
        return False

    def close(self) -> None:
        """Close the consumer."""
        self._follower.close()

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            if message.value() is None:
                self._take_end(message.key())
                continue
            try:
                status = message_types.decode_status(message.value())
            except BlockMalformedError:
                continue
            if isinstance(status, Heartbeat) and status.machine == self._machine:
                self._take_heartbeat(status, is_old=message.key() == self._old_key)

    def _take_heartbeat(self, heartbeat: Heartbeat, *, is_old: bool) -> None:
        is_ours = self._is_ours(heartbeat)
        if is_old:
            self.has_old = is_ours
        if is_ours:
            self.newest, self._count = heartbeat, self._count + 1
            self._is_newest_old = is_old

    def _take_end(self, key: bytes | None) -> None:
        """Handle a tombstone; one with the old key may be of any group."""
        if key == self._old_key:
            self.has_old = False
        if key == self._key or (key == self._old_key and self._is_newest_old):
            self.newest, self._count = None, self._count + 1

    def _is_ours(self, heartbeat: Heartbeat) -> bool:
        return (heartbeat.machine, heartbeat.group) == (self._machine, self._group)


class SecondWorkers:
    """Other workers with this machine id, distinguished by their start ids."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # when each counts as gone, by start id

    def note(self, heartbeat: Heartbeat, *, now: float) -> str:
        """Record another worker's heartbeat; return the fault, empty beyond `MAX_OTHERS`."""
        is_new = heartbeat.start_id not in self._until
        if is_new and len(self._until) >= MAX_OTHERS:
            return ""
        reason = (
            f"another worker runs as machine {heartbeat.machine} of this group "
            f"({described(heartbeat)}): give one of them another --machine-id"
        )
        if is_new:
            logger.error("%s", reason)
        self._until[heartbeat.start_id] = now + wait_seconds(heartbeat)
        return reason

    def forget_silent(self, *, now: float) -> bool:
        """Remove those that are silent at *now*; return whether any remain."""
        self._until = {start_id: until for start_id, until in self._until.items() if until >= now}
        return bool(self._until)


def is_of(heartbeat: Heartbeat, settings: Settings) -> bool:
    """Return whether *heartbeat* is one of this machine id and group."""
    return (heartbeat.machine, heartbeat.group) == (settings.machine_id, settings.group_id)


def wait_seconds(heartbeat: Heartbeat) -> float:
    """Return how many seconds to wait for the next heartbeats of its sender."""
    return min(MAX_WAIT_SECONDS, max(MIN_WAIT_SECONDS, BEATS * interval_of(heartbeat)))


def described(heartbeat: Heartbeat) -> str:
    """Return a description of the worker that sent *heartbeat*."""
    return f"data folder {printable(heartbeat.data_dir)}, views at {printable(heartbeat.web_url)}"


def forget(settings: Settings, machine: str, *, force: bool) -> int | None:
    """Revoke all blocks of *machine*, and delete its row; return the number of blocks.

    Returns None if the group has neither a heartbeat nor an acknowledgement of the machine.

    Raises:
        MachineInUseError: it is up, and *force* is False.
        ClusterError: the broker does not answer, or did not take all of it.
    """
    topic_admin.check(settings)
    watch = MachineWatch(settings, machine)
    try:
        newest = watch.read(whole=True)
        if newest and newest.state != "stopped" and not force and watch.is_up():
            message = (
                f"machine {machine} of group {settings.group_id} is up ({described(newest)}): "
                "stop its worker first, or use --force"
            )
            raise MachineInUseError(message)
    finally:
        watch.close()
    found = inventory.Differences((), group=settings.group_id, machine=machine)
    inventory.read_acks(settings, found.take, threading.Event())
    lost = [inventory.as_lost(ack, FORGOTTEN) for ack in found.missing.values()]
    publish.publish_acks(settings, lost)
    _remove_row(settings, machine, with_old=watch.has_old)
    return len(lost) if lost or newest else None


def _remove_row(settings: Settings, machine: str, *, with_old: bool) -> None:
    """Publish a tombstone for the machine's heartbeats: the tables delete its row.

    *with_old*: also for the key of an older version.
    """
    key, old_key = message_types.machine_key(machine, settings.group_id), machine.encode()
    status, partition = topic_admin.names(settings).status, partition_of(old_key)
    keys = [key, old_key] if with_old else [key]
    publish.publish(settings, [(status, each, None, partition) for each in keys])
