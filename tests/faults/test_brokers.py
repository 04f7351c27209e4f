"""Brokers that come and go, and partitions that move, while blocks are sent: nothing is lost."""

import json
import statistics
import subprocess
import sys
import time

from typing import ClassVar

import pytest

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamapp.broker import java_command
from tests import harness
from tests.faults.storm import PROGRESS_SECONDS, Storm, busiest
from tests.harness import MIB
from tests.waiting import wait_for


pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

BOUNCES = 5
BLOCKS = 256
NODES = (1, 2, 3)
TOOL_SECONDS = 60
TOOL = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"


class Bounces(Storm):
    """Stops a broker and starts it again, while folders of 16 blocks of 8 MiB are sent."""

    sizes: ClassVar = {"a": 64 * MIB, "b": 32 * MIB, "c": 32 * MIB - 1}
    flags: ClassVar = {"block_size": "8MiB", "frame_size": "1MiB", "compression": "none"}
    block_size = 8 * MIB

    def __init__(self, site, cluster, rng, *, faults):
        super().__init__(site, rng, faults=faults)
        self.resumed, self.in_sync = [], []
        self._cluster = cluster

    def bounce(self, node, *, hard):
        """Kill or end *node* and start it at once; wait until it has a copy of everything."""
        under_way = self.site.stored()
        wait_for(lambda: self._is_more_stored(under_way), within=PROGRESS_SECONDS, what="a block")
        if hard:
            self._cluster.kill(node)
        else:
            self._cluster.stop_node(node)
        down, stored = time.monotonic(), self.site.stored()
        self._cluster.start_node(node, wait=False)
        wait_for(
            lambda: self._is_more_stored(stored), within=PROGRESS_SECONDS, what="one more block"
        )
        self.resumed.append(time.monotonic() - down)
        self._cluster.start_node(node)  # it runs; this waits until it answers
        wait_for(
            lambda: is_in_sync(self._cluster),
            within=PROGRESS_SECONDS,
            what=f"broker {node} to be in sync",
            every=0.2,
        )
        self.in_sync.append(time.monotonic() - down)

    def _is_more_stored(self, before):
        self.go_on()
        return self.site.stored() > before

    def fill(self):
        """Send more folders until there were as many blocks as the test promises."""
        while self._round * 16 < BLOCKS:
            self.feed()
            assert 0 == self.producer.wait(300)

    def check(self, what):
        """Everything is there; also say how long the brokers took."""
        verdict = super().check(what)
        sys.stdout.write(
            f"  a block again after median {statistics.median(self.resumed):.1f} s, longest "
            f"{max(self.resumed):.1f} s; in sync after median {statistics.median(self.in_sync):.1f}"
            f" s, longest {max(self.in_sync):.1f} s\n"
        )
        return verdict


def partitions(cluster):
    """Return ``{(topic, number): (replicas, whether all are in sync)}``; empty: nobody knows."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, **harness.QUIET})
    try:
        topics = admin.list_topics(timeout=10).topics
    except KafkaException:
        return {}
    return {
        (topic, number): (found.replicas, set(found.replicas) == set(found.isrs))
        for topic in topics
        for number, found in topics[topic].partitions.items()
    }


def is_in_sync(cluster):
    """Return whether all copies of all partitions are in sync."""
    found = partitions(cluster)
    return bool(found) and all(is_whole for _, is_whole in found.values())


def test_leader_bounces(site3, kafka3):
    """The leader of most partitions is killed five times and ended five times, in turn."""
    rng = harness.seeded()
    site3.ready_workers("w1", "w2", block_timeout=30)
    storm = Bounces(site3, kafka3, rng, faults=2 * BOUNCES)

    def hurt():
        storm.bounce(busiest(kafka3), hard=len(storm.resumed) % 2 == 0)

    storm.rage(hurt)
    storm.fill()
    verdict = storm.check("leader bounced, hard and clean in turn")
    assert verdict.blocks >= BLOCKS


def test_partitions_move(site3, kafka3, tmp_path):
    """All partitions move to other brokers, and one of those is bounced meanwhile, five times.

    Two copies of each, so that there is a broker to move to.
    """
    rng = harness.seeded()
    site3.ready_workers("w1", "w2", block_timeout=30, replication=2)
    storm = Bounces(site3, kafka3, rng, faults=BOUNCES)
    moved = []

    def hurt():
        wanted = reassign(kafka3, rng, tmp_path / "logs" / "reassignment.json")
        moved.append(len(wanted))
        storm.bounce(rng.choice(NODES), hard=len(storm.resumed) % 2 == 0)
        wait_for(
            lambda: is_assigned(kafka3, wanted),
            within=PROGRESS_SECONDS,
            what="the partitions to have moved",
            every=0.2,
        )

    storm.rage(hurt)
    storm.check(f"partitions reassigned ({sum(moved)} moves) and a broker bounced")


def reassign(cluster, rng, path):
    """Have every partition of two copies move to other brokers; return where to."""
    wanted = {}
    for place, (replicas, _) in partitions(cluster).items():
        if len(replicas) == 2:
            new = next(node for node in NODES if node not in replicas)
            wanted[place] = rng.sample([rng.choice(replicas), new], 2)
    assert len(wanted) > harness.PARTITIONS
    plan = [{"topic": t, "partition": n, "replicas": r} for (t, n), r in wanted.items()]
    path.write_text(json.dumps({"version": 1, "partitions": plan}), "ascii")
    files = ("--reassignment-json-file", path)
    command = java_command(TOOL, *files, *("--bootstrap-server", cluster.bootstrap), heap_mib=256)
    subprocess.run([*command, "--execute"], check=True, timeout=TOOL_SECONDS)
    return wanted


def is_assigned(cluster, wanted):
    """Return whether every partition is where it is wanted, with all copies in sync."""
    found = partitions(cluster)
    return all(found.get(place) == (replicas, True) for place, replicas in wanted.items())
