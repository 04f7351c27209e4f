"""Faults by the dozen, for `make test-long`: nothing is lost, wrong or stored twice in one place.

After each fault the test waits until one more block is stored, by whichever worker, and says how
long that took from the moment of the fault on, with a session timeout of 6 s.
"""

import statistics
import sys
import time

from typing import ClassVar

import pytest

from tests import harness
from tests.faults.lies import LIES, ON_RECORD
from tests.harness import MIB
from tests.waiting import wait_for


pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]

FLAGS = {"block_size": "1MiB", "frame_size": "256KiB", "compression": "none"}
PROGRESS_SECONDS = 120  # invariant I7: what a heal may take


class Storm:
    """Hurts something again and again while a folder is sent; measures how fast it heals."""

    sizes: ClassVar = {"a": 40 * MIB, "b": 17 * MIB + 1}
    flags: ClassVar = FLAGS
    block_size = MIB

    def __init__(self, site, rng, *, faults):
        self.site = site
        self.rng = rng
        self.healed = []
        self.producer = None
        self._faults = faults
        self._round = 0

    def feed(self):
        """Send one more folder, so that there is always something on its way."""
        self._round += 1
        source = self.site.source(self.sizes, self.rng, f"s{self._round}")
        self.producer = self.site.producer(source, f"s{self._round}", **self.flags)

    def go_on(self):
        """Send one more folder if the last one is there."""
        if not self.producer.is_running:
            assert 0 == self.producer.code
            self.feed()

    def rage(self, hurt):
        """Do *hurt* as often as wanted, each time as soon as blocks arrive again."""
        self.feed()
        for _ in range(self._faults):
            self._wait_for_blocks(self.rng.randrange(6))  # a random moment
            began = time.monotonic()
            hurt()
            self._wait_for_blocks(1)
            self.healed.append(time.monotonic() - began)
        assert 0 == self.producer.wait(300)

    def _wait_for_blocks(self, count):
        """Wait until so many more are stored; there is always something on its way."""
        wanted = self.site.stored() + count

        def are_stored():
            self.go_on()
            return self.site.stored() >= wanted

        wait_for(are_stored, within=PROGRESS_SECONDS, what="progress")

    def check(self, what):
        """Everything that was sent is there, and the tables are exact."""
        sources = {f"s{n}": self.site.folder / f"s{n}" for n in range(1, self._round + 1)}
        verdict = self.site.verdict(sources, block_size=self.block_size)

        assert [] == verdict.problems
        sys.stdout.write(
            f"{what}: {self._faults} faults, {verdict.blocks} blocks, {verdict.files} files, "
            f"0 lost, 0 wrong, {len(verdict.doubled)} on two machines; progress after median "
            f"{statistics.median(self.healed):.1f} s, longest {max(self.healed):.1f} s\n"
        )
        return verdict


def test_hundred_worker_kills(site3):
    """Three workers, one of them killed a hundred times at random moments and restarted."""
    rng = harness.seeded()
    workers = site3.ready_workers("w1", "w2", "w3")
    storm = Storm(site3, rng, faults=100)

    def hurt():
        worker = rng.choice(workers)
        worker.kill()
        worker.start()

    storm.rage(hurt)

    for worker in workers:
        worker.wait_until_ready()
    storm.check("worker killed")


def test_ten_broker_kills(site3, kafka3):
    """Ten times a broker is killed and comes back, while blocks are sent."""
    rng = harness.seeded()
    site3.ready_workers("w1", "w2")
    storm = Storm(site3, rng, faults=10)

    def hurt():
        node = rng.randrange(1, 4)
        kafka3.kill(node)
        kafka3.start_node(node)

    storm.rage(hurt)
    storm.check("broker killed")


def test_twenty_rebalances(site):
    """A worker comes and goes twenty times."""
    rng = harness.seeded()
    site.ready_workers("w1", "w2")
    guest = site.worker("w3").wait_until_ready()
    storm = Storm(site, rng, faults=20)

    def hurt():
        if guest.is_running:
            assert 0 == guest.terminate(within=30)  # invariant I6
        else:
            guest.start()
            guest.wait_until_ready()

    storm.rage(hurt)
    storm.check("worker came or went")


def test_thousand_malicious_blocks(site):
    """A thousand blocks of a liar: none is kept, each is on record, and honest ones arrive."""
    rng = harness.seeded()
    worker = site.worker("w1").wait_until_ready()
    sender = harness.RawSender(site)
    for number in range(1000):
        lie = LIES[number % len(LIES)]
        sender.send(lie(rng), partition=rng.randrange(harness.PARTITIONS))
    source = site.source({"honest": 7 * MIB}, rng)

    assert 0 == site.producer(source, **FLAGS).wait()
    site.wait_until_committed(within=300)
    assert 7 == site.stored()
    machine = worker.get("/machines/")["machines"][0]
    verdict = site.verdict({"source": source})
    assert [] == verdict.problems
    told = machine["rejected"] + machine["quarantined"]
    assert told >= 1000 * len(ON_RECORD) // len(LIES)
    sys.stdout.write(f"malicious: 1000 blocks, 0 kept, {told} on record, 7 honest ones kept\n")
