"""Faults by the dozen, for `make test-long`: nothing is lost, wrong or stored twice in one place.

After each fault the test waits until one more block is stored, by whichever worker, and says how
long that took from the moment of the fault on, with a session timeout of 6 s.
"""

import sys

import pytest

from tests import harness
from tests.faults.lies import LIES, ON_RECORD
from tests.faults.storm import FLAGS, Storm
from tests.harness import MIB


pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]


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
    """1,000 blocks of a forger: none is persisted, each is reported, and valid ones arrive."""
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
