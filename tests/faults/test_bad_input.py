"""An unknown producer writes bad records: none is persisted, and all other files arrive.

Two hundred and more bad blocks, of every kind in `tests.faults.lies`; blocks that are sent
again, as they were and with other content; and records on the two small topics that are none.
"""

import json

from tests import checker, harness
from tests.faults.lies import LIES, ON_RECORD, honest
from tests.harness import MIB
from tests.waiting import wait_for


ROUNDS = 14
FLAGS = {"block_size": "1MiB", "frame_size": "256KiB"}


def test_lies(site):
    """Every bad block is quarantined or rejected, none is persisted, and the worker continues."""
    rng = harness.seeded()
    worker = site.worker("w1").wait_until_ready()
    pid, before = worker.pid, set(site.folder.rglob("*"))
    sender = harness.RawSender(site)
    lies = [lie(rng) for lie in LIES * ROUNDS]
    assert len(lies) >= 200
    for records in lies:
        sender.send(records, partition=rng.randrange(harness.PARTITIONS))

    site.wait_until_committed(within=120)  # also attempts that expire

    assert [] == [ack for ack in site.acks() if ack["outcome"] == "persisted"]
    assert [] == worker.bins()
    told = len(site.statuses()["quarantined"]) + sum(
        ack["outcome"] == "rejected" for ack in site.acks()
    )
    assert told >= ROUNDS * len(ON_RECORD)
    outside = set(site.folder.rglob("*")) - before - set(worker.root.rglob("*"))
    assert set() == outside
    assert (pid, True) == (worker.pid, worker.is_running)

    source = site.source({"honest": 3 * MIB + 7, "deep/er": 10}, rng)
    assert 0 == site.producer(source, **FLAGS).wait()
    verdict = site.verdict({"source": source})
    assert ([], 5) == (verdict.problems, verdict.acks)


def test_sent_again(site):
    """A block that is sent again is acknowledged again; with another content it is rejected."""
    rng = harness.seeded()
    worker = site.worker("w1").wait_until_ready()
    sender = harness.RawSender(site)
    block = honest(rng)
    sender.send(block.records(), partition=2)
    site.wait_until_stored(1)
    (stored,) = worker.bins()
    inode, kept = stored.stat().st_ino, checker.sha256_of(stored)

    sender.send(block.records(), partition=2)  # the very same, as Kafka may deliver it
    block.attempt += 1
    sender.send(block.records(), partition=4)  # a new attempt, and on another partition
    block.attempt += 1
    sender.send(block.with_data(rng.randbytes(9000)).records(), partition=2)

    site.wait_until_committed()
    outcomes = [(ack["attempt"], ack["outcome"]) for ack in site.acks()]
    first = block.attempt - 2
    wanted = [(first, "persisted"), (first, "persisted"), (first + 1, "persisted")]
    assert sorted([*wanted, (first + 2, "rejected")]) == sorted(outcomes)
    assert (inode, kept) == (stored.stat().st_ino, checker.sha256_of(stored))
    verdict = site.verdict()
    assert ([], 1) == (verdict.problems, verdict.acks)


def test_noise_on_the_small_topics(site):
    """What is no acknowledgement and no status changes no table, and ends no agent."""
    rng = harness.seeded()
    worker = site.worker("w1").wait_until_ready()
    sender = harness.RawSender(site)
    ack = {"kind": "block", "file_id": "0" * 32, "block": 1, "blocks": 1, "outcome": "persisted"}
    noise = [
        None,
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"null",
        b'{"kind": "machine"}',
        json.dumps(ack).encode(),
        json.dumps(ack | {"size": -1, "group": site.group}).encode(),
        json.dumps(ack | {"group": site.group, "machine": "../x", "size": 1e400}).encode(),
        rng.randbytes(300_000),
    ]
    for topic in (checker.ACKS, harness.STATUS):
        for partition in range(3):
            records = [(rng.choice([None, b"", b"key"]) if v else b"k", v, None) for v in noise]
            sender.send(records, partition=partition, topic=topic)

    source = site.source({"honest": 2 * MIB}, rng)
    assert 0 == site.producer(source, **FLAGS).wait()

    verdict = site.verdict({"source": source})
    assert ([], 1) == (verdict.problems, verdict.files)
    assert worker.is_running
    wait_for(lambda: worker.health.get("ready"), within=10, what="the worker to be ready")
