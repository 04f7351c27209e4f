"""The faults. Each injects one fault and returns when the group should have recovered.

Afterwards `streamapp.trials.selftest.testbed.Testbed.problems` must find nothing.
"""

from __future__ import annotations

import functools

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streamapp.errors import DeliveryError, StreamAppError
from streamapp.protocol import fileplan, topics
from streamapp.trials.selftest import spoiled_frames


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.trials.processes import Process
    from streamapp.trials.selftest.spoiled_frames import Piece
    from streamapp.trials.selftest.testbed import Testbed

BLOCKS: Final = 24
"""Blocks of a file during whose transfer a process is killed."""

_STORED: Final = 5
"""Blocks on disk before the kill; the others are in flight or not yet sent."""

_NOTHING_TORN: Final = "A block is stored whole and verified, or not at all"
_NOTHING_TWICE: Final = "No machine writes a block twice"
_NOTHING_BELIEVED: Final = "What strangers send is set aside, and stops nobody"
_NOTHING_SKIPPED: Final = "A machine's death loses nothing"
_RESUMES: Final = "The same command resumes, and exit code 0 means done"

_REPLAYED: Final = "producer killed"
"""The file whose frames are replayed; it has attempts that were cut off."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: *happen* injects it, and raises DeliveryError if the group does not recover."""

    promise: str
    name: str
    happen: Callable[[Testbed], None]


def _spoiled(spoil: Callable[[list[Piece]], list[Piece]], testbed: Testbed) -> None:
    """Send a spoiled block, check that it is rejected, and have a producer deliver it."""
    source = testbed.write(f"frames {spoil.__name__}")
    pieces = testbed.cut(source)
    attempt = pieces[0][0].attempt
    partition = fileplan.block_partition(source.file_id, 0, topics.BLOCK_PARTITIONS)
    testbed.injector.send(spoiled_frames.encoded(spoil(pieces)), partition=partition)
    testbed.wait(lambda: testbed.observer.answer(source.file_id, attempt) is not None, "an answer")
    answer = testbed.observer.answer(source.file_id, attempt)
    wanted = "persisted" if spoil is spoiled_frames.double else "rejected"
    if answer is None or answer.outcome != wanted:
        raise DeliveryError(f"{source.name}: expected {wanted}, answered {answer}")
    testbed.finish(testbed.producer(f"producer after {spoil.__name__}"))


def _malformed(testbed: Testbed) -> None:
    """Send malformed records to one partition, then a valid file over all partitions."""
    pieces = testbed.cut(testbed.write("malformed"))
    offsets = testbed.injector.send(spoiled_frames.malformed(pieces), partition=0)
    wanted = {(0, offset) for offset in offsets}
    testbed.wait(lambda: wanted <= testbed.observer.set_aside, "malformed records to be set aside")
    testbed.write("after malformed", topics.BLOCK_PARTITIONS)
    testbed.finish(testbed.producer("producer after malformed"))


def _worker_killed(testbed: Testbed) -> None:
    """Kill a worker while blocks are in flight, and start it again."""
    name, victim = "worker killed", testbed.workers[0]
    producer = _begun(testbed, name)
    victim.kill()
    _check_half_way(testbed, name)
    victim.start()
    testbed.finish(producer)
    testbed.wait_until_shared()


def _producer_killed(testbed: Testbed) -> None:
    """Kill a producer during a delivery, and run it again."""
    _begun(testbed, _REPLAYED).kill()
    _check_half_way(testbed, _REPLAYED)
    testbed.finish(testbed.producer("producer again"))


def _replayed(testbed: Testbed) -> None:
    """Send all frames of an earlier delivery again; no block on disk may be written."""
    before = testbed.blocks()
    testbed.injector.replay(testbed.file(_REPLAYED).file_id)
    testbed.wait_until_committed()
    after = testbed.blocks()
    if touched := [path for path, mark in before.items() if after.get(path) != mark]:
        raise DeliveryError(f"{len(touched)} stored blocks were written again: {touched[0]}")


def _begun(testbed: Testbed, name: str) -> Process:
    """Return a producer that has delivered some blocks of a new file."""
    testbed.write(name, BLOCKS)
    producer = testbed.producer(name)
    testbed.wait(lambda: testbed.stored(name) >= _STORED, "the first blocks to be stored")
    return producer


def _check_half_way(testbed: Testbed, name: str) -> None:
    """Check that the delivery was in progress at the kill.

    Raises:
        StreamAppError: all blocks were delivered, so the fault proves nothing.
    """
    if testbed.stored(name) >= BLOCKS:
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
