"""Faults that are repeated while a folder is sent, and how long each takes to heal."""

import collections
import statistics
import sys
import time

from typing import ClassVar

from confluent_kafka.admin import AdminClient

from tests.harness import MIB
from tests.waiting import wait_for


FLAGS = {"block_size": "1MiB", "frame_size": "256KiB", "compression": "none"}
PROGRESS_SECONDS = 120  # invariant I7: what a heal may take


class Storm:
    """Injects a fault again and again while a folder is sent; measures each recovery."""

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


def busiest(cluster):
    """Return the number of the broker that leads most partitions."""
    found = AdminClient({"bootstrap.servers": cluster.bootstrap}).list_topics(timeout=10)
    leaders = collections.Counter(
        partition.leader
        for topic in found.topics.values()
        for partition in topic.partitions.values()
    )
    return leaders.most_common(1)[0][0]
