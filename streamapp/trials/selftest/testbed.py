"""The self-test's own topics, with two workers, producers, an injector and an observer.

Each wait is for an effect, and has a time limit. It also ends if a worker ends, or if the user
stops the self-test.
"""

from __future__ import annotations

import contextlib
import os
import time

from typing import TYPE_CHECKING, Final, Self

from streamapp.errors import DeliveryError, InterruptedDeliveryError
from streamapp.kafka import groups, topic_admin
from streamapp.producer.run import first_attempt
from streamapp.producer.sources import scan
from streamapp.protocol import topics
from streamapp.trials.processes import Process, Worker, free_ports
from streamapp.trials.selftest import disk_check, spoiled_frames
from streamapp.trials.selftest.injector import Injector
from streamapp.trials.selftest.observer import Observer
from streamapp.units import MIB


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable
    from pathlib import Path

    from streamapp.kafka.topic_admin import TopicState
    from streamapp.settings import Settings
    from streamapp.trials.selftest.spoiled_frames import Piece

MACHINE: Final = "selftest"
WORKERS: Final = 2
BLOCK: Final = MIB
PATIENCE_SECONDS: Final = 90.0
"""Time limit of an effect. A dead worker's partitions are reassigned after its session."""

_POLL_SECONDS: Final = 0.02
_WORKER: Final = {
    "session_timeout": 6,  # the shortest that brokers allow
    "block_timeout": 5,
    "heartbeat": 1,
    "min_free": "1MiB",
    "scrub_rate": 0,
}
_PRODUCER: Final = {
    "block_size": BLOCK,
    "frame_size": BLOCK // spoiled_frames.FRAMES,
    "compression": "none",
    "window": 2 * BLOCK,  # makes the delivery slow enough to be interrupted
    "readers": 1,
}


class Testbed:
    """Starts the processes of the self-test, watches them, and stops them at its exit."""

    def __init__(
        self, settings: Settings, folder: Path, states: dict[str, TopicState], stop: threading.Event
    ) -> None:
        self.settings = settings
        self.source = folder / "source"
        self._machines = folder / "machines"
        self._logs = folder / "logs"
        for path in (self.source, self._machines, self._logs):
            path.mkdir()
        self._stop = stop
        self.injector = Injector(settings, states[topic_admin.names(settings).data_blocks])
        self._stack = contextlib.ExitStack()
        self.workers = [
            Worker(
                f"{MACHINE}-{number}",
                folder=self._machines,
                brokers=settings.brokers,
                port=port,
                group_id=settings.group_id,
                topic_prefix=settings.topic_prefix,
                **_WORKER,
            )
            for number, port in enumerate(free_ports(WORKERS), start=1)
        ]
        self.roots = {worker.name: worker.data_root for worker in self.workers}

    def __enter__(self) -> Self:
        with self._stack:
            self.observer = Observer(self.settings)
            self._stack.callback(self.observer.close)
            for worker in self.workers:
                self._stack.callback(worker.stop)
                worker.start()
            self.wait_until_shared()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- actions

    def write(self, name: str, blocks: int = 1) -> scan.SourceFile:
        """Write a file of random bytes, and return it as a producer scans it."""
        (self.source / name).write_bytes(os.urandom(blocks * BLOCK))
        return self.file(name)

    def file(self, name: str) -> scan.SourceFile:
        """Return a written file as a producer scans it."""
        found = scan.scan(self.source, machine=MACHINE, block_size=BLOCK)
        return next(s for s in found if isinstance(s, scan.SourceFile) and s.relative == name)

    def cut(self, source: scan.SourceFile) -> list[Piece]:
        """Return the frames of a new attempt at a file of one block."""
        data = (self.source / source.relative).read_bytes()
        return spoiled_frames.cut(source, data, attempt=first_attempt(), machine=MACHINE)

    def producer(self, name: str) -> Process:
        """Start a producer of all written files."""
        process = Process(
            name,
            "producer",
            folder=self._logs,
            machine_id=MACHINE,
            group_id=self.settings.group_id,
            topic_prefix=self.settings.topic_prefix,
            brokers=(self.settings.brokers,),
            data_folder=self.source,
            **_PRODUCER,
        )
        self._stack.callback(process.kill)
        process.start()
        return process

    def finish(self, producer: Process) -> None:
        """Wait until a producer has delivered everything.

        Raises:
            DeliveryError: it failed.
        """
        self.wait(
            lambda: producer.code is not None, "the producer to deliver everything", every=0.1
        )
        if producer.code:
            raise DeliveryError(
                f"the producer ended with exit code {producer.code}: {producer.last_line}"
            )

    # --- observations

    def wait(self, holds: Callable[[], bool], what: str, *, every: float = _POLL_SECONDS) -> None:
        """Wait until *holds* returns True; it is called *every* so many seconds.

        Raises:
            DeliveryError: the time limit is reached, or a worker ended.
            InterruptedDeliveryError: the user stopped the self-test.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            for worker in self.workers:
                if worker.code is not None:
                    raise DeliveryError(
                        f"{worker.name} ended with code {worker.code}: {worker.last_line}"
                    )
            if self._stop.is_set():
                raise InterruptedDeliveryError("the self-test was stopped before its end")
            if time.monotonic() > deadline:
                raise DeliveryError(f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}")
            self.observer.look(every)

    def wait_until_shared(self) -> None:
        """Wait until all partitions are assigned, and each worker has some.

        Raises:
            DeliveryError: the time limit is reached, or a worker ended.
        """

        def is_shared() -> bool:
            health = [worker.health() or {} for worker in self.workers]
            held = [p for h in health if h.get("ready") for p in h["partitions"]]
            each = all(h.get("partitions") for h in health)
            return each and sorted(held) == list(range(topics.BLOCK_PARTITIONS))

        self.wait(is_shared, "the workers to share the partitions", every=0.3)

    def wait_until_committed(self) -> None:
        """Wait until the group has committed every frame.

        Raises:
            DeliveryError: the commits do not reach the end in time.
            ClusterError: Kafka does not answer.
        """
        ends = self.injector.ends()
        reader = groups.reader(self.settings, self.settings.group_id)

        def are_done() -> bool:
            committed = groups.committed(reader, ends)
            return all(committed.get(place, 0) >= end for place, end in ends.items())

        with contextlib.closing(reader):
            self.wait(are_done, "all frames to be done for good", every=0.3)

    def blocks(self) -> dict[Path, disk_check.Mark]:
        """Return the blocks on all disks."""
        return disk_check.blocks(self.roots.values())

    def stored(self, name: str) -> int:
        """Return how many blocks of a file are on disks."""
        return len({path.name for path in self.blocks() if path.parent.name == name})

    def problems(self) -> list[str]:
        """Return the problems on the disks; all written files must be delivered by now."""
        self.observer.catch_up()
        found = disk_check.problems(self.source, self.roots, self.observer.acks)
        known = {worker.log.name for worker in self.workers} | {
            root.name for root in self.roots.values()
        }
        strays = [path.name for path in self._machines.iterdir() if path.name not in known]
        return found + [f"{name} lies outside of the data folders" for name in strays]
