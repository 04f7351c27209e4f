"""Blocks on two machines: counted on the disks after kills, freezes and runs again, then freed."""

import shutil
import sys
import time

from typing import ClassVar

import pytest

from tests import checker, harness
from tests.faults.storm import FLAGS, Storm
from tests.harness import MIB


BLOCK = MIB // 4
FREEZE_SECONDS = 8  # longer than the session timeout of 6 s
SHARE = 0.01
"""Of all blocks, how many may be acknowledged by two machines."""


class Repetitions(Storm):
    """Hurts workers so that what was delivered is delivered to another one again."""

    sizes: ClassVar = {"a": 10 * MIB, "b": 4 * MIB + 1}
    flags: ClassVar = FLAGS | {"block_size": "256KiB", "frame_size": "64KiB"}
    block_size = BLOCK

    def __init__(self, site, rng, workers, *, faults):
        super().__init__(site, rng, faults=faults)
        self._workers = workers
        self._kinds = [self._kill, self._freeze, self._run_again]

    def hurt(self):
        """Do the next kind of harm to a worker chosen by chance."""
        kind = self._kinds.pop(0)
        self._kinds.append(kind)
        kind(self.rng.choice(self._workers))

    def count(self):
        """Return the verdict, and how many blocks two machines acknowledged."""
        for worker in self._workers:
            worker.wait_until_ready()
        self.site.wait_until_committed(120)
        verdict = self.check("killed, frozen, sent again")
        machines = {}
        for ack in self.site.acks():
            machines.setdefault((ack["file_id"], ack["block"]), set()).add(ack["machine"])
        twice = sum(len(machines[key]) > 1 for key in verdict.doubled)
        sys.stdout.write(f"{twice} of them acknowledged by both\n")
        return verdict, twice

    def _kill(self, worker):
        worker.kill()
        worker.start()

    def _freeze(self, worker):
        worker.pause()
        time.sleep(FREEZE_SECONDS)  # the fault itself
        worker.resume()

    def _run_again(self, worker):
        """Kafka still holds the first copy of what the second run sends."""
        if self.producer.is_running:
            self.producer.kill()
        self._kill(worker)
        name = f"s{self._round}"
        self.producer = self.site.producer(self.site.folder / name, name, **self.flags)


def raged(site, *names, faults):
    """Hurt the workers *names* so often; return what there is on two machines then."""
    workers = site.ready_workers(*names)
    storm = Repetitions(site, harness.seeded(), workers, faults=faults)
    storm.rage(storm.hurt)
    verdict, twice = storm.count()
    assert twice <= max(1, SHARE * verdict.blocks)
    return verdict, twice


def test_few_are_on_two_machines(site):
    """A kill, a freeze and a run again: hardly a block is acknowledged by two machines."""
    raged(site, "w1", "w2", faults=3)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_few_are_on_two_machines_after_long(site):
    """The same with three workers and thirty faults."""
    verdict, _ = raged(site, "w1", "w2", "w3", faults=30)
    assert len(verdict.doubled) <= max(1, SHARE * verdict.blocks)


def test_second_copies_are_freed(site):
    """A copy that another machine acknowledged later is listed, and freed: one stays, the right."""
    source = site.source({"a": 4 * BLOCK}, harness.seeded())
    first = site.worker("w1").wait_until_ready()
    assert 0 == site.producer(source, **Repetitions.flags).wait()
    site.wait_until_committed()
    assert 0 == first.terminate()
    gone = first.root.rename(first.folder / "gone")
    first.start()
    first.wait_until_ready()  # it publishes all as lost
    assert 0 == first.terminate()
    second = site.worker("w2").wait_until_ready()
    assert 0 == site.producer(source, **Repetitions.flags).wait()
    shutil.rmtree(first.root)
    gone.rename(first.root)
    assert {4} == {len(worker.bins()) for worker in (first, second)}
    before = len(site.acks())

    assert (1, 0) == verified(site, first, "listed")
    assert (1, 4) == verified(site, first, "freed", "--free")
    assert (0, 0) == verified(site, first, "again", "--free")
    assert (0, 4) == (len(first.bins()), len(checker.read_disk(second.root).blocks))
    assert before == len(site.acks())
    first.start()
    first.wait_until_ready()
    verdict = site.verdict({"source": source}, block_size=BLOCK)
    assert ([], [], 4) == (verdict.problems, verdict.doubled, verdict.blocks)


def verified(site, worker, name, *flags):
    """Run `streamapp verify --duplicates`; return its exit code, and how many blocks it freed."""
    given = harness.flags(
        {
            "machine_id": worker.name,
            "data_dir": worker.folder,
            "group_id": site.group,
            "brokers": site.brokers,
        }
    )
    command = [sys.executable, "-m", "streamapp", "verify", "--duplicates", *given, *flags]
    process = site.process(f"verify-{name}", command)
    code = process.wait()
    return code, sum(line.startswith("freed: ") for line in process.said().splitlines())
