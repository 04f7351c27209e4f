"""An hour of work: memory, open files and lag of the workers stay what they were."""

import statistics
import sys
import time

import psutil
import pytest

from tests import harness
from tests.harness import MIB
from tests.waiting import wait_for


SOAK_SECONDS = 3600
ROUND_SECONDS = 8
GROWTH_BYTES = 24 * MIB
"""What an hour may add: the tables' caches grow with the number of files, up to a bound."""
MORE_FILES = 60
"""A rebalance moves partitions, and their RocksDB files; a leak of one a round adds 400."""
FLAGS = {"block_size": "1MiB", "frame_size": "256KiB", "compression": "none"}


class Soak:
    """Sends a small folder again and again, and notes what the workers hold of the machine."""

    def __init__(self, site, rng, workers):
        self.sources = {}
        self._site, self._rng = site, rng
        self._workers = [(worker.name, psutil.Process(worker.pid)) for worker in workers]
        self._began = time.monotonic()
        self._memory = {worker.name: [] for worker in workers}
        self._files = {worker.name: [] for worker in workers}

    @property
    def seconds(self):
        """Return for how long it has run."""
        return time.monotonic() - self._began

    def send(self):
        """Send one more folder, and look at the workers when all of it is persisted."""
        name = f"s{len(self.sources)}"
        sizes = {"a": 4 * MIB, "b": MIB // 2, "c": 1}
        self.sources[name] = self._site.source(sizes, self._rng, name)
        assert 0 == self._site.producer(self.sources[name], name, **FLAGS).wait()
        for worker, process in self._workers:
            self._memory[worker].append(process.memory_info().rss)
            self._files[worker].append(process.num_fds())

    def check(self):
        """What the workers held in the second tenth and in the last is the same."""
        for worker, _ in self._workers:
            memory = _growth(self._memory[worker])
            files = _growth(self._files[worker])
            sys.stdout.write(
                f"soak: {worker} in {self.seconds:.0f} s and {len(self.sources)} runs: "
                f"memory {self._memory[worker][-1] / MIB:.0f} MiB, {memory / MIB:+.1f} MiB; "
                f"open files {self._files[worker][-1]}, {files:+.0f}\n"
            )
            assert memory < GROWTH_BYTES
            assert files < MORE_FILES


def _growth(readings):
    tenth = max(1, len(readings) // 10)
    return statistics.median(readings[-tenth:]) - statistics.median(readings[tenth : 2 * tenth])


def test_growth():
    """A leak is seen, and what comes and goes is none (a check of the check)."""
    steady = [100 + n % 3 for n in range(100)]
    leaking = [100 + n for n in range(100)]

    assert abs(_growth(steady)) <= 1
    assert _growth(leaking) > 50


@pytest.mark.long
@pytest.mark.timeout(SOAK_SECONDS + 900)
def test_an_hour(site):
    """For an hour folders come in: nothing is lost, nothing grows, and no lag is left."""
    rng = harness.seeded()
    workers = site.ready_workers("w1", "w2")
    soak = Soak(site, rng, workers)

    while soak.seconds < SOAK_SECONDS:
        due = soak.seconds + ROUND_SECONDS
        soak.send()
        wait_for(lambda due=due: soak.seconds >= due, within=60, what="the next run's time")

    site.wait_until_committed()
    soak.check()
    verdict = site.verdict(soak.sources)
    assert ([], 3 * len(soak.sources)) == (verdict.problems, verdict.files)
    site.stop_workers()
