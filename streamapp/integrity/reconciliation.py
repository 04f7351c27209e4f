"""Corrects the acknowledgements to match this machine's disks, when a worker starts.

Another disk may be mounted, a backup restored, or a folder removed or moved here from another
machine. The data folders and the start id in the newest heartbeat show such a change: then all
blocks are compared before the worker begins. Otherwise they are compared while it runs, because
single files may be missing.
"""

from __future__ import annotations

import logging
import time

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import MachineInUseError
from streamapp.integrity import inventory, machines
from streamapp.kafka import publish


if TYPE_CHECKING:
    import threading

    from collections.abc import Iterator

    from streamapp.protocol.messages import BlockAck, Heartbeat
    from streamapp.settings import Settings
    from streamapp.store import BlockStore

logger = logging.getLogger(__name__)

LOST: Final = "the machine does not have it: a data folder or a part of it is gone"


class Outcome(msgspec.Struct, frozen=True):
    """The numbers of blocks that were revoked, and acknowledged again."""

    lost: int = 0
    persisted: int = 0


def before_start(settings: Settings, store: BlockStore, *, is_alone: bool = False) -> bool:
    """Compare all blocks if a data folder changed; return whether it did.

    *is_alone*: `refuse_if_up` was called just now.

    Raises:
        MachineInUseError: another worker runs under this machine id.
        StoreError: a data folder cannot be read.
        ClusterError: the broker does not answer, or did not take what is to be published.
    """
    watch = machines.MachineWatch(settings, settings.machine_id)
    try:
        newest = watch.read()
        if newest is not None and _is_last_start(newest, store):
            return False
        if newest is not None and not is_alone:
            _refuse_if_up(settings, watch, newest)
    finally:
        watch.close()
    if newest is not None:
        logger.warning(
            "the data folders of machine %s are not those of its last start: all "
            "acknowledgements are compared with what is there",
            settings.machine_id,
        )
    outcome = publish_differences(settings, store, settings.machine_id)
    if outcome.lost or outcome.persisted:
        logger.warning(
            "%d blocks are gone and are published as lost, %d are here and are acknowledged again",
            outcome.lost,
            outcome.persisted,
        )
    return True


def refuse_if_up(settings: Settings) -> None:
    """Check that no other worker runs under this machine id; for a new data folder.

    Raises:
        MachineInUseError: another one runs.
        ClusterError: the broker does not answer.
    """
    watch = machines.MachineWatch(settings, settings.machine_id)
    try:
        newest = watch.read()
        if newest is not None:
            _refuse_if_up(settings, watch, newest)
    finally:
        watch.close()


def publish_differences(settings: Settings, store: BlockStore, machine: str) -> Outcome:
    """Publish corrections of the acknowledgements of *machine*, whose folders *store* has.

    Raises:
        StoreError: a data folder cannot be read.
        ClusterError: the broker does not answer, or did not take all of it.
    """
    roots = [root.path for root in store.roots]
    found = inventory.compare(settings, roots, machine=machine)
    lost = [inventory.as_lost(ack, LOST) for ack in found.missing.values()]
    again = publish.publish_acks(settings, _again_acknowledged(found, settings, machine))
    if lost:
        publish.publish_acks(settings, lost)
    return Outcome(lost=len(lost), persisted=again)


def _again_acknowledged(
    found: inventory.Differences, settings: Settings, machine: str
) -> Iterator[BlockAck]:
    """Yield acknowledgements of the blocks here that no machine has acknowledged.

    Raises:
        StoreError: a data folder cannot be read.
    """
    for folder, number in found.unacknowledged():
        if block := folder.block(number):
            yield block.acknowledgement(group=settings.group_id, machine=machine, at=time.time())


def still_missing(settings: Settings, store: BlockStore, stop: threading.Event) -> list[BlockAck]:
    """Return acknowledged blocks that are missing: candidates, as the worker is running.

    Raises:
        StoreError: a data folder cannot be read.
        ClusterError: the acknowledgements cannot be read.
    """
    roots = [root.path for root in store.roots]
    found = inventory.compare(settings, roots, machine=settings.machine_id, stop=stop)
    return [] if stop.is_set() else list(found.missing.values())


def _is_last_start(newest: Heartbeat, store: BlockStore) -> bool:
    """Return whether *newest* is of the last worker with exactly these folders."""
    starts = {root.last_start for root in store.roots}
    return (
        bool(newest.start_id)
        and starts == {newest.start_id}
        and set(newest.folders) == set(store.identities)
    )


def _refuse_if_up(settings: Settings, watch: machines.MachineWatch, newest: Heartbeat) -> None:
    if newest.state == "stopped":
        return
    if watch.is_up(lambda heartbeat: heartbeat.start_id == newest.start_id):
        seen = machines.described(watch.newest) if watch.newest else ""
        message = (
            f"another worker of group {settings.group_id} runs as machine {settings.machine_id} "
            f"({seen}): give this one another --machine-id, or stop the other one"
        )
        raise MachineInUseError(message)
