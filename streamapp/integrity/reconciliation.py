"""Makes the acknowledgements true of this machine's disks, when a worker starts.

Another disk may be mounted at the path, a backup restored, a folder removed or brought back from
another machine. What the newest heartbeat says of data folders and of the last start shows whether
something changed while no worker looked: then all is compared before the worker begins. When
nothing shows it, all is compared beside it, because single files may be missing all the same.
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
    """How many blocks were revoked, and how many acknowledged again."""

    lost: int = 0
    persisted: int = 0


def before_start(settings: Settings, store: BlockStore, *, is_alone: bool = False) -> bool:
    """Compare all before the worker begins, if something changed; return whether it did.

    *is_alone*: no other worker runs under this machine id, by `refuse_if_up` just now.

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
    """Prove that no other worker runs under this machine id; for one that has no data folder yet.

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
    """Publish what the acknowledgements say wrongly of the folders of *store*, *machine*'s.

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
    """Yield the acknowledgements of what lies here and is acknowledged by no machine.

    Raises:
        StoreError: a data folder cannot be read.
    """
    for folder, number in found.unacknowledged():
        if block := folder.block(number):
            yield block.acknowledgement(group=settings.group_id, machine=machine, at=time.time())


def still_missing(settings: Settings, store: BlockStore, stop: threading.Event) -> list[BlockAck]:
    """Return what is acknowledged and not here: candidates, while the worker goes on writing.

    Raises:
        StoreError: a data folder cannot be read.
        ClusterError: the acknowledgements cannot be read.
    """
    roots = [root.path for root in store.roots]
    found = inventory.compare(settings, roots, machine=settings.machine_id, stop=stop)
    return [] if stop.is_set() else list(found.missing.values())


def _is_last_start(newest: Heartbeat, store: BlockStore) -> bool:
    """Whether *newest* is of the worker that had exactly these folders, as they are, before."""
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
