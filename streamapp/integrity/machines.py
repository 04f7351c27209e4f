"""What a machine of the group said of itself last, whether it is up, and how it is forgotten.

A machine is up when another heartbeat of it comes: clocks differ, so no age is compared.
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
"""Records that are read first: the newest heartbeat of a machine that was up lately is there."""

BEATS: Final = 3
"""Heartbeats that are waited for before a machine counts as gone."""

MIN_WAIT_SECONDS: Final = 3.0
"""A broker may be slower than heartbeats that come very often."""

MAX_WAIT_SECONDS: Final = 300.0
"""Anybody may write any interval into a heartbeat."""

MAX_OTHERS: Final = 100
"""Other workers under this machine id that are told apart; one is enough to hold."""

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

        With *whole* `has_old` is known as well: whether a heartbeat of the machine lies under the
        key that an older version gave it.

        Raises:
            ClusterError: the topic cannot be read.
        """
        if not whole:
            look_back = {self._place: LOOK_BACK}
            self._follower.read_to(
                self._follower.begin(self._stop, look_back=look_back), self._stop
            )
        if not self._count:  # it is silent for long, or was never there
            self._follower.read_to(self._follower.begin(self._stop), self._stop)
        return self.newest

    def is_up(self, is_other: Callable[[Heartbeat], bool] = lambda _: True) -> bool:
        """Wait for some beats; return whether a heartbeat came for which *is_other* holds.

        They are as far apart as the newest one says.

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
        """Take a record without a value; one under the old key may be of any group."""
        if key == self._old_key:
            self.has_old = False
        if key == self._key or (key == self._old_key and self._is_newest_old):
            self.newest, self._count = None, self._count + 1

    def _is_ours(self, heartbeat: Heartbeat) -> bool:
        return (heartbeat.machine, heartbeat.group) == (self._machine, self._group)


class SecondWorkers:
    """Other workers that speak under this machine id, told apart by their start ids."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # the next heartbeat is waited for so long

    def note(self, heartbeat: Heartbeat, *, now: float) -> str:
        """Note a heartbeat of another worker; return what is wrong, empty when it is too many."""
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
        """Forget those that are silent at *now*; return whether one is left."""
        self._until = {start_id: until for start_id, until in self._until.items() if until >= now}
        return bool(self._until)


def is_of(heartbeat: Heartbeat, settings: Settings) -> bool:
    """Return whether *heartbeat* is one of this machine id and group."""
    return (heartbeat.machine, heartbeat.group) == (settings.machine_id, settings.group_id)


def wait_seconds(heartbeat: Heartbeat) -> float:
    """Return how long to wait for the next heartbeats of who sent *heartbeat*."""
    return min(MAX_WAIT_SECONDS, max(MIN_WAIT_SECONDS, BEATS * interval_of(heartbeat)))


def described(heartbeat: Heartbeat) -> str:
    """Return which worker sent *heartbeat*, for people."""
    return f"data folder {printable(heartbeat.data_dir)}, views at {printable(heartbeat.web_url)}"


def forget(settings: Settings, machine: str, *, force: bool) -> int | None:
    """Revoke all that *machine* has, and remove its row; return how many blocks were revoked.

    None: the group knows no such machine, by heartbeat or acknowledgement.

    Raises:
        MachineInUseError: it is up, and *force* was not asked for.
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
    """Write a tombstone over the machine's heartbeats: the tables remove its row.

    *with_old*: also over the one that lies under the key of an older version.
    """
    key, old_key = message_types.machine_key(machine, settings.group_id), machine.encode()
    status, partition = topic_admin.names(settings).status, partition_of(old_key)
    keys = [key, old_key] if with_old else [key]
    publish.publish(settings, [(status, each, None, partition) for each in keys])
