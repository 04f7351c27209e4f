"""The measurements, one function each. What they cost others on the machine stands beside them."""

from __future__ import annotations

import json
import re
import sys
import time

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from bench import data
from bench.child import Child, Failure
from bench.rig import busy_seconds
from streamapp.broker import java_command
from streamapp.protocol.topics import DATA_BLOCKS
from streamapp.units import GIB, MIB


if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.rig import Machine, Rig

BARE_LOOP: Final = Path(__file__).with_name("bare_loop.py")
RUN_SECONDS: Final = 900.0
POLL_SECONDS: Final = 0.02
RECORD_BYTES: Final = MIB
PAYLOADS: Final = 64

PERF_TEST: Final = {
    "acks": "all",
    "batch.size": str(4 * MIB),
    "linger.ms": "20",
    "buffer.memory": str(128 * MIB),
    "max.request.size": str(8 * MIB),
    "compression.type": "none",
}
"""The best that was found for the perf test; docs/benchmarks.md says what else was tried."""

_PERF_SUMMARY: Final = re.compile(r"^(\d+) records sent, .*\(([0-9.]+) MB/sec\)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run: MiB/s by the program's own clock, and CPU seconds per GiB of who took part."""

    rate: float
    wall_seconds: float
    client: float = 0.0
    workers: float = 0.0
    brokers: float = 0.0
    others_share: float = 0.0  # of the processors' time, taken by whoever has no part in it


class _Bill:
    """What a run cost: made at its start, asked at its end."""

    def __init__(self, rig: Rig, machines: list[Machine]) -> None:
        self._site, self._machines = rig, machines
        self._workers, self._brokers = self._now()
        self._busy, self._began = busy_seconds(), time.monotonic()

    def run(self, size: int, *, rate: float, child: Child | None = None) -> Run:
        """Return the run of *size* bytes, at *rate* MiB/s, in which *child* sent or read."""
        seconds = time.monotonic() - self._began
        workers, brokers = self._now()
        workers, brokers = workers - self._workers, brokers - self._brokers
        client = child.cpu_seconds if child else 0.0
        others = busy_seconds() - self._busy - workers - brokers - client
        return Run(
            rate=rate,
            wall_seconds=child.seconds if child else seconds,
            client=client * GIB / size,
            workers=workers * GIB / size,
            brokers=brokers * GIB / size,
            others_share=max(0.0, others) / (seconds * psutil.cpu_count()),
        )

    def _now(self) -> tuple[float, float]:
        for machine in self._machines:
            machine.child.look()
        workers = sum(machine.child.cpu_seconds for machine in self._machines)
        return workers, self._site.broker_cpu_seconds()


def perf_test(rig: Rig, size: int, payload: Path, **properties: str) -> Run:
    """Send *size* bytes with Kafka's own tool; *properties* win over `PERF_TEST`."""
    rig.fresh_topics()
    given = PERF_TEST | {name.replace("_", "."): value for name, value in properties.items()}
    records = size // RECORD_BYTES
    command = java_command(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--bootstrap-server", rig.brokers, "--topic", DATA_BLOCKS),
        *("--num-records", str(records), "--throughput", "-1"),
        *("--payload-file", str(payload), "--payload-delimiter", data.DELIMITER),
        *("--command-property", *(f"{name}={value}" for name, value in given.items())),
        heap_mib=1024,
    )
    bill = _Bill(rig, [])
    child = Child("perf-test", command, rig.logs).finish(RUN_SECONDS)
    said = _PERF_SUMMARY.findall(child.out.read_text("utf-8"))
    if not said or int(said[-1][0]) != records:
        raise Failure(f"the perf test did not send all, see {child.out}")
    return bill.run(size, rate=float(said[-1][1]), child=child)


def end_to_end(rig: Rig, size: int, source: Path, *, workers: int) -> Run:
    """Send the *size* bytes of *source* to *workers*, until all of it is acknowledged."""
    rig.fresh_topics()
    with rig.machines(workers) as machines:
        rig.wait_until_shared(machines)
        bill = _Bill(rig, machines)
        child = rig.producer(source).finish(RUN_SECONDS)
        return bill.run(size, rate=_summary(child, size)["rate"] / MIB, child=child)


@dataclass(frozen=True)
class Peaks:
    """The most memory of both sides, and what a second run over the same file takes."""

    producer_bytes: int
    worker_bytes: int
    second_seconds: float


def peaks(rig: Rig, size: int, source: Path) -> Peaks:
    """Send *source* to one worker, and once more."""
    rig.fresh_topics()
    with rig.machines(1) as machines:
        rig.wait_until_shared(machines)
        first = rig.producer(source).finish(RUN_SECONDS)
        _summary(first, size)
        machines[0].child.look()
        second = rig.producer(source).finish(RUN_SECONDS)
        if json.loads(second.out.read_text("utf-8").splitlines()[-1])["bytes_sent"]:
            raise Failure("the second run sent something again")
        return Peaks(first.peak_bytes, machines[0].child.peak_bytes, second.seconds)


def reading(rig: Rig, size: int, source: Path) -> tuple[Run, Run]:
    """Fill the topic, then read it twice: a bare aiokafka loop, and a worker."""
    rig.fresh_topics()
    sent = rig.producer(source, "--no-wait").finish(RUN_SECONDS)
    blocks = json.loads(sent.out.read_text("utf-8").splitlines()[-1])["blocks_sent"]
    return _bare_loop(rig, size), _worker_alone(rig, size, blocks)


def _bare_loop(rig: Rig, size: int) -> Run:
    bill = _Bill(rig, [])
    command = [sys.executable, str(BARE_LOOP), rig.brokers, str(size)]
    child = Child("bare-loop", command, rig.logs).finish(RUN_SECONDS)
    rate, cpu = map(float, child.out.read_text("ascii").split())
    return replace(bill.run(size, rate=rate, child=child), client=cpu * GIB / size)


def _worker_alone(rig: Rig, size: int, blocks: int) -> Run:
    """From the first frame to the last block's rename; the worker's start is not counted."""
    with rig.machines(1) as (machine,):
        _wait_until(machine.has_begun)
        bill, began = _Bill(rig, [machine]), time.monotonic()
        _wait_until(lambda: machine.blocks() == blocks)
        return bill.run(size, rate=size / MIB / (time.monotonic() - began))


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Failure("a worker did not get on")
        time.sleep(POLL_SECONDS)


def _summary(child: Child, size: int) -> dict[str, Any]:
    """Return the producer's last word; it must have delivered everything, once."""
    said: dict[str, Any] = json.loads(child.out.read_text("utf-8").splitlines()[-1])
    if (said["bytes_sent"], said["bytes_persisted"]) != (size, size):
        raise Failure(f"not everything was delivered, or not once: {said}")
    return said
