"""The faults: each does its harm, and returns when the group should have got over it.

After each one `streamapp.trials.selftest.testbed.Site.problems` must find nothing.
"""

from __future__ import annotations

import functools

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streamapp.errors import DeliveryError, StreamAppError
from streamapp.kafka import topic_admin
from streamapp.protocol import fileplan
from streamapp.trials.selftest import spoiled_frames


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.trials.processes import Process
    from streamapp.trials.selftest.spoiled_frames import Piece
    from streamapp.trials.selftest.testbed import Site

BLOCKS: Final = 24
"""Blocks of a file during whose transfer something is killed."""

_STORED: Final = 5
"""Blocks that are on disk before: the rest is on its way, or still to come."""

_NOTHING_TORN: Final = "A block is stored whole and verified, or not at all"
_NOTHING_TWICE: Final = "No machine writes a block twice"
_NOTHING_BELIEVED: Final = "What strangers send is set aside, and stops nobody"
_NOTHING_SKIPPED: Final = "A machine's death loses nothing"
_RESUMES: Final = "The same command resumes, and exit code 0 means done"

_REPLAYED: Final = "producer killed"
"""A file whose blocks lie where their partitions are read now, cut-off attempts among them."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: *happen* does it.

    *happen* raises DeliveryError when the group does not get over it.
    """

    promise: str
    name: str
    happen: Callable[[Site], None]


def _spoiled(spoil: Callable[[list[Piece]], list[Piece]], site: Site) -> None:
    """Send a spoiled block: it is refused, and arrives when a producer sends it."""
    source = site.write(f"frames {spoil.__name__}")
    pieces = site.cut(source)
    attempt = pieces[0][0].attempt
    partition = fileplan.partition_of(source.file_id, 0, topic_admin.BLOCK_PARTITIONS)
    site.hand.send(spoiled_frames.encoded(spoil(pieces)), partition=partition)
    site.wait(lambda: site.witness.answer(source.file_id, attempt) is not None, "an answer")
    answer = site.witness.answer(source.file_id, attempt)
    wanted = "persisted" if spoil is spoiled_frames.double else "rejected"
    if answer is None or answer.outcome != wanted:
        raise DeliveryError(f"{source.name}: expected {wanted}, answered {answer}")
    site.finish(site.producer(f"producer after {spoil.__name__}"))


def _malformed(site: Site) -> None:
    """Send what no producer writes to a partition, and then a good file over all of them."""
    pieces = site.cut(site.write("malformed"))
    offsets = site.hand.send(spoiled_frames.malformed(pieces), partition=0)
    wanted = {(0, offset) for offset in offsets}
    site.wait(lambda: wanted <= site.witness.set_aside, "malformed records to be set aside")
    site.write("after malformed", topic_admin.BLOCK_PARTITIONS)
    site.finish(site.producer("producer after malformed"))


def _worker_killed(site: Site) -> None:
    """Kill a worker while blocks are in flight, and start it again."""
    name, victim = "worker killed", site.workers[0]
    producer = _begun(site, name)
    victim.kill()
    _check_half_way(site, name)
    victim.start()
    site.finish(producer)
    site.wait_until_shared()


def _producer_killed(site: Site) -> None:
    """Kill a producer half way, and run it again."""
    _begun(site, _REPLAYED).kill()
    _check_half_way(site, _REPLAYED)
    site.finish(site.producer("producer again"))


def _replayed(site: Site) -> None:
    """Send all frames of an old transfer again: no block on any disk is touched."""
    before = site.blocks()
    site.hand.replay(site.file(_REPLAYED).file_id)
    site.wait_until_committed()
    after = site.blocks()
    if touched := [path for path, mark in before.items() if after.get(path) != mark]:
        raise DeliveryError(f"{len(touched)} stored blocks were written again: {touched[0]}")


def _begun(site: Site, name: str) -> Process:
    """Return a producer that has delivered some blocks of a new file, and not all."""
    site.write(name, BLOCKS)
    producer = site.producer(name)
    site.wait(lambda: site.stored(name) >= _STORED, "the first blocks to be stored")
    return producer


def _check_half_way(site: Site, name: str) -> None:
    """See that what was killed had something to do.

    Raises:
        StreamAppError: it had not: the fault proves nothing.
    """
    if site.stored(name) >= BLOCKS:
        raise StreamAppError(f"{name}: all was delivered before the kill: run the self-test again")


FAULTS: Final = (
    *(
        Fault(promise=promise, name=name, happen=functools.partial(_spoiled, spoil))
        for promise, name, spoil in (
            (_NOTHING_TORN, "a frame dropped", spoiled_frames.drop),
            (_NOTHING_TORN, "frames reordered", spoiled_frames.reorder),
            (_NOTHING_TORN, "a bit flipped on the way", spoiled_frames.flip),
            (
                _NOTHING_TORN,
                "a block that is not what its SHA-256 declares",
                spoiled_frames.misdeclare,
            ),
            (_NOTHING_TWICE, "every frame doubled", spoiled_frames.double),
        )
    ),
    Fault(promise=_NOTHING_BELIEVED, name="malformed headers", happen=_malformed),
    Fault(
        promise=_NOTHING_SKIPPED,
        name="a worker killed (SIGKILL) with blocks in flight, and restarted",
        happen=_worker_killed,
    ),
    Fault(
        promise=_RESUMES,
        name="a producer killed (SIGKILL) half way, and run again",
        happen=_producer_killed,
    ),
    Fault(promise=_NOTHING_TWICE, name="all frames of an old transfer replayed", happen=_replayed),
)
