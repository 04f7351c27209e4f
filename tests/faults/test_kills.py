"""Workers and brokers that are killed, suspended and restarted: no block is lost or wrong.

If a worker is killed before it committed a block's offsets, a second machine may persist the block
too (`doubled`). Workers commit every second; blocks acknowledged long before must not be doubled.
"""

import time

import pytest

from tests import checker, harness
from tests.faults.storm import busiest
from tests.harness import MIB
from tests.waiting import wait_for


BLOCKS = 96
BLOCK = 2 * MIB
SIZES = {"a": 60 * BLOCK, "b": 30 * BLOCK, "c": 6 * BLOCK}
FLAGS = {"block_size": "2MiB", "frame_size": "512KiB", "compression": "none"}
COMMIT_SECONDS = 15
"""How old what is not committed may be: a busy machine is late, and so is one without a broker."""


def check_delivery(site, source, hurt, *, with_tables=True):
    """All blocks are persisted, whole, and counted right by every worker.

    *hurt* is which machines were hurt, and when.
    """
    verdict = site.verdict({"source": source}, block_size=BLOCK, with_tables=with_tables)
    assert [] == verdict.problems
    assert (BLOCKS, len(SIZES)) == (verdict.blocks, verdict.files)
    told = {(ack["file_id"], ack["block"], ack["machine"]): ack["at"] for ack in site.acks()}
    for key in verdict.doubled:  # a killed worker could not publish it, or not commit it
        kept = {name: told.get((*key, name)) for name in verdict.holders[key]}
        assert any(
            name in hurt and (at is None or at > hurt[name] - COMMIT_SECONDS)
            for name, at in kept.items()
        ), (key, kept, hurt)
    assert verdict.acks - BLOCKS <= len(verdict.doubled)


def test_workers_die(site3):
    """One of three workers is killed with blocks in flight and restarted, another is ended."""
    rng = harness.seeded()
    source = site3.source(SIZES, rng)
    workers = site3.ready_workers("w1", "w2", "w3")
    killed, ended, _ = rng.sample(workers, 3)
    producer = site3.producer(source, **FLAGS)

    site3.wait_until_stored(rng.randrange(5, 25))
    killed.kill()
    hurt = {killed.name: time.time()}
    assert site3.stored() < BLOCKS - harness.PARTITIONS  # there was more to come
    killed.start()
    site3.wait_until_stored(rng.randrange(40, 60))
    hurt[ended.name] = time.time()
    assert 0 == ended.terminate(within=harness.STOP_SECONDS)

    assert 0 == producer.wait()
    killed.wait_until_ready()
    check_delivery(site3, source, hurt)
    site3.stop_workers()
    assert [] == site3.verdict({"source": source}, block_size=BLOCK, stopped=True).problems


def test_broker_dies(site3, kafka3):
    """The broker that leads most partitions is killed while blocks are sent, and comes back."""
    rng = harness.seeded()
    source = site3.source(SIZES, rng)
    workers = site3.ready_workers("w1", "w2")
    producer = site3.producer(source, **FLAGS)

    site3.wait_until_stored(rng.randrange(5, 25))
    kafka3.kill(node := busiest(kafka3))
    killed_at = time.time()
    assert site3.stored() < BLOCKS - harness.PARTITIONS
    stored = site3.stored()
    site3.wait_until_stored(min(BLOCKS, stored + 10))  # two brokers remain
    kafka3.start_node(node)

    assert 0 == producer.wait()
    check_delivery(site3, source, dict.fromkeys([worker.name for worker in workers], killed_at))


def test_zombie(site):
    """A worker frozen past its session, its partitions taken over, then woken, does no harm.

    It had half of a block; the other one gets all of it. Awake, it neither keeps, nor
    acknowledges, nor commits, nor counts what is not its own any more.
    """
    rng = harness.seeded()
    source = site.source(SIZES, rng)
    early = site.source({"early": 6 * BLOCK}, rng, "early")
    frozen, other = site.ready_workers("w1", "w2")
    assert 0 == site.producer(early, "early", **FLAGS).wait()
    site.wait_until_committed()
    assert [] == site.verdict({"early": early}, block_size=BLOCK).problems
    held = {path: checker.sha256_of(path) for path in frozen.bins()}
    sender, half = harness.RawSender(site), harness.RawBlock(rng, size=4000, frames=4)
    partition = frozen.health["partitions"][0]
    sender.send(half.records()[:2], partition=partition)
    wait_for(lambda: parts(frozen), within=30, what="the half block")

    frozen.pause()
    producer = site.producer(source, **FLAGS)
    sender.send(half.records()[2:], partition=partition)
    with harness.healing("worker frozen, its partitions taken over"):
        other.wait_until_ready(range(harness.PARTITIONS))
    assert 0 == producer.wait()
    site.wait_until_committed()
    committed, acks = site.committed(), len(site.acks())
    frozen.resume()

    frozen.wait_until_ready()
    wait_for(lambda: not parts(frozen), within=30, what="no torn file")
    sources = {"source": source, "early": early}
    verdict = site.verdict(sources, block_size=BLOCK)
    assert ([], [], BLOCKS + 7) == (verdict.problems, verdict.doubled, verdict.acks)
    assert held == {path: checker.sha256_of(path) for path in frozen.bins()}
    assert (committed, acks) == (site.committed(), len(site.acks()))


def parts(worker):
    """Return the half-written blocks on the disk of *worker*."""
    return list(worker.root.rglob("*.part"))


@pytest.mark.long
def test_zombie_under_load(site):
    """Frozen with blocks and acknowledgements on their way, it still stores nothing wrong.

    The tables are not looked at: what it had handed to Kafka's client before it froze comes
    out when it wakes, over newer rows (docs/reliability.md).
    """
    rng = harness.seeded()
    source = site.source(SIZES, rng)
    frozen, other = site.ready_workers("w1", "w2")
    producer = site.producer(source, **FLAGS)
    site.wait_until_stored(10)
    frozen.pause()
    hurt = {frozen.name: time.time()}
    assert site.stored() < BLOCKS - harness.PARTITIONS
    held = {path: checker.sha256_of(path) for path in frozen.bins()}
    other.wait_until_ready(range(harness.PARTITIONS))
    assert 0 == producer.wait()
    site.wait_until_committed()
    committed, acks = site.committed(), site.acks()

    frozen.resume()

    frozen.wait_until_ready()
    wait_for(lambda: not parts(frozen), within=30, what="no torn file")
    assert committed == site.committed()
    assert held.items() <= {path: checker.sha256_of(path) for path in frozen.bins()}.items()
    late = [ack for ack in site.acks() if ack not in acks]
    assert len(late) <= harness.PARTITIONS  # what was on its way when it froze
    assert {"persisted"} >= {ack["outcome"] for ack in late}
    check_delivery(site, source, hurt, with_tables=False)


def test_block_over_a_crash(site):
    """A block whose first half was taken before a crash, and its second half after it, arrives.

    Blocks that came in between, on the same partition, are done: their commits must not pass
    the open block's first frame.
    """
    rng = harness.seeded()
    worker = site.worker("w1", block_timeout=600).wait_until_ready()
    sender = harness.RawSender(site)
    first, between = (harness.RawBlock(rng, size=4000, frames=4) for _ in range(2))
    sender.send(first.records()[:2], partition=3)
    sender.send(between.records(), partition=3)
    wait_for(lambda: len(worker.bins()) == 1, within=30, what="the block in between")
    sender.send(harness.RawBlock(rng, size=10).records(), partition=4)
    wait_for(lambda: site.committed().get(4) == 1, within=30, what="a commit")
    assert site.committed().get(3, 0) == 0

    worker.kill()
    worker.start().wait_until_ready()
    sender.send(first.records()[2:], partition=3)

    wait_for(lambda: len(worker.bins()) == 3, within=60, what="the block that was cut in two")
    site.wait_until_committed()
    verdict = site.verdict()
    assert ([], 3) == (verdict.problems, verdict.acks)
