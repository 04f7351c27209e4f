"""Where the measurements run: a three-broker cluster, its topics, and workers on them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import urllib.request

from typing import TYPE_CHECKING, Final, Self

import psutil

from bench.child import Child, Failure, cpu_seconds
from streamapp.broker import Cluster
from streamapp.kafka import topic_admin
from streamapp.protocol import topics
from streamapp.settings import Settings
from streamapp.trials.processes import free_ports


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODES: Final = 3
READY_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 3.0
STREAMAPP: Final = (sys.executable, "-m", "streamapp")

# Deleted topics leave the disk at once, so that all rounds together need the room of one.
_BROKER_EXTRA: Final = {"log.segment.delete.delay.ms": "1000"}


class Machine:
    """A worker with a data folder of its own."""

    def __init__(self, name: str, rig: Rig) -> None:
        (port,) = free_ports(1)
        self._health = f"http://127.0.0.1:{port}/health/"
        self.folder = rig.folder / name
        self.folder.mkdir()
        self.child = Child(
            name,
            [
                *(*STREAMAPP, "worker", "--machine-id", name, "--brokers", rig.brokers),
                *("--data-dir", str(self.folder), "--web-port", str(port)),
            ],
            rig.logs,
        )

    def partitions(self) -> list[int]:
        """Return the partitions that it reads; none while it is not ready."""
        self.child.look()
        try:
            with urllib.request.urlopen(self._health, timeout=2) as answer:  # noqa: S310
                health = json.load(answer)
        except (OSError, ValueError):
            return []
        return health["partitions"] if health["ready"] else []

    def blocks(self) -> int:
        """Return how many blocks are persisted here."""
        return sum(1 for _ in self.folder.rglob("block_*.bin"))

    def has_begun(self) -> bool:
        """Return whether the first frame came."""
        return any(self.folder.rglob("block_*"))


class Rig:
    """A cluster in *folder*, which must be new; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._cluster = Cluster(folder / "kafka", nodes=NODES, heap_mib=512, extra=_BROKER_EXTRA)
        self.brokers = ""
        self.settings = Settings()

    def __enter__(self) -> Self:
        """Start the cluster."""
        self.logs.mkdir(parents=True)
        self._cluster.start()
        self.brokers = self._cluster.bootstrap
        self.settings = Settings.load(machine_id="bench", brokers=self.brokers)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and remove everything but the logs."""
        self._cluster.stop()
        for part in self.folder.iterdir():
            if part != self.logs:
                shutil.rmtree(part) if part.is_dir() else part.unlink()

    def fresh_topics(self) -> None:
        """Begin from nothing: topics just made, and all that was written before on the disk."""
        topic_admin.delete(
            self.settings,
            [
                spec.name
                for spec in topic_admin.specs(self.settings) + topic_admin.changelogs(self.settings)
            ],
        )
        topic_admin.ensure(self.settings)
        time.sleep(SETTLE_SECONDS)  # the brokers remove the old files
        os.sync()

    def broker_cpu_seconds(self) -> float:
        """Return the processor time of all brokers up to now."""
        return cpu_seconds([node.pid for node in self._cluster.status() if node.pid])

    @contextlib.contextmanager
    def machines(self, count: int) -> Iterator[list[Machine]]:
        """Start *count* workers that share all partitions; end them and remove their data."""
        machines = [Machine(f"worker-{number}", self) for number in range(1, count + 1)]
        try:
            yield machines
        finally:
            for machine in machines:
                machine.child.stop()
            for machine in machines:
                shutil.rmtree(machine.folder)

    def wait_until_shared(self, machines: list[Machine]) -> None:
        """Wait until *machines* have all partitions among them, each some."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            held = [machine.partitions() for machine in machines]
            if all(held) and sum(map(len, held)) == topics.BLOCK_PARTITIONS:
                return
            if time.monotonic() > deadline:
                raise Failure(f"the workers are not ready after {READY_SECONDS:.0f} s")
            time.sleep(0.2)

    def producer(self, source: Path, *flags: str) -> Child:
        """Start a producer of the folder *source*."""
        return Child(
            "producer",
            [
                *(*STREAMAPP, "producer", "--machine-id", "source", "--brokers", self.brokers),
                *("--data-folder", str(source), "--json", *flags),
            ],
            self.logs,
        )


def busy_seconds() -> float:
    """Return the processor time that the whole machine has spent up to now."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
