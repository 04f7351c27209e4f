"""Kafka keeps little, or deletes what nobody has read; blocks that are rejected; who restarts.

Nothing of it is silent, and what can still be delivered is.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
import urllib.request

from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from streamapp.protocol import messages, topics
from streamapp.protocol.routing import partition_of
from tests import checker, harness
from tests.harness import DATA_BLOCKS, PARTITIONS
from tests.waiting import wait_for


FRAME = 64 << 10
BLOCK = 4 * FRAME
FLAGS = {"block_size": "256KiB", "frame_size": "64KiB", "compression": "none"}
WINDOW = 4 * BLOCK
PLACES = [TopicPartition(DATA_BLOCKS, number) for number in range(PARTITIONS)]


def streamapp(site, *command):
    """Run a command; return its exit code and what it said."""
    process = site.process(f"command-{len(site._processes)}", [sys.executable, "-m", *command])
    return process.wait(60), process.said()


def starts(site):
    """Where each partition of `data-blocks` begins."""
    asked = dict.fromkeys(PLACES, OffsetSpec.earliest())
    found = site._admin.list_offsets(asked)
    return {place.partition: future.result(30).offset for place, future in found.items()}


def is_committed(site, group):
    """Whether *group* has committed all there is."""
    with harness.reader(site.brokers, group) as consumer:
        found = consumer.committed(PLACES, timeout=10)
    return {p.partition: max(0, p.offset) for p in found} == site.ends()


def metric(worker, name):
    """The number that a worker's metrics have under *name*."""
    with urllib.request.urlopen(f"{worker.url}/metrics", timeout=10) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


def test_little_room(site):
    """A topic that keeps little: refused, or carried with a window and released for all groups."""
    rng = harness.seeded()
    common = ("--brokers", site.brokers)
    code, _ = streamapp(site, "streamapp", "topics", "create", "--retention-size", "1MiB", *common)
    assert 0 == code
    (worker,) = site.ready_workers("w1")
    other = site.worker("w2", group_id="second").wait_until_ready()
    site.workers.remove(other)  # the checker looks at one group
    site.sources.append(other.folder)
    first = site.source({"first": 6 * BLOCK}, rng, "one")
    assert 0 == site.producer(first, "one", **FLAGS).wait()
    wait_for(lambda: is_committed(site, "second"), within=60, what="the other group", every=0.3)
    assert 0 == other.terminate()
    seen = site.ends()

    source = site.source({"a": 30 * BLOCK, "b": 30 * BLOCK}, rng, "two")
    refused = site.producer(source, "two", **FLAGS)
    assert 35 == refused.wait()
    assert "--window" in refused.said()
    assert seen == site.ends()

    sent, kept = site.records(), site.stored()
    worker.pause()
    producer = site.producer(source, "two", window=WINDOW, release=True, **FLAGS)
    wait_for(lambda: site.records() - sent == WINDOW // FRAME, within=60, what="a full window")
    worker.resume()
    under_way = []
    while producer.is_running:
        frames = site.records() - sent  # asked first: what is kept is then no less
        under_way.append(frames * FRAME - (site.stored() - kept) * BLOCK)
    assert 0 == producer.wait()
    assert max(under_way) <= WINDOW
    assert seen == starts(site)  # the other group has not read what came after

    other.start().wait_until_ready()
    wait_for(lambda: is_committed(site, "second"), within=90, what="the other group", every=0.3)
    last = site.source({"last": 1}, rng, "three")
    before = site.ends()
    ignoring = {"ignore_retention": True, "release": True}
    assert 0 == site.producer(last, "three", **ignoring, **FLAGS).wait()
    assert all(start >= before[number] for number, start in starts(site).items())

    sources = {"one": first, "two": source, "three": last}
    assert [] == site.verdict(sources, block_size=BLOCK).problems
    wait_for(lambda: len(other.bins()) == 67, within=60, what="the last block at the other group")
    disk = checker.read_disk(other.root, stopped=False)
    files = {}
    for name, folder in sources.items():
        files |= checker.source_files(folder, source=name, block_size=BLOCK)
    assert [] == disk.problems + checker.check_sources(files, [disk], block_size=BLOCK)


def test_deleted_unread(site):
    """What Kafka deletes before anybody read it is reported and counted, and sent again."""
    rng = harness.seeded()
    (worker,) = site.ready_workers("w1")
    first = site.source({"first": 6 * BLOCK}, rng, "one")
    assert 0 == site.producer(first, "one", **FLAGS).wait()
    site.wait_until_committed()
    assert 0 == worker.terminate()
    before = site.records()
    source = site.source({"a": 12 * BLOCK}, rng, "two")
    producer = site.producer(source, "two", ack_grace=1, retry_base=0.1, **FLAGS)
    frames = 12 * BLOCK // FRAME
    wait_for(lambda: site.records() - before == frames, within=60, what="all frames", every=0.2)
    to_the_end = [TopicPartition(DATA_BLOCKS, number, -1) for number in range(PARTITIONS)]
    for future in site._admin.delete_records(to_the_end).values():
        future.result(30)

    with harness.healing("records deleted unread, worker started, blocks sent again"):
        worker.start().wait_until_ready()
        assert 0 == producer.wait()

    assert "12 of them again" in producer.said()
    assert frames == metric(worker, "streamapp_deleted_unread_records_total")
    reasons = [said["reason"] for said in site.statuses()["quarantined"]]
    assert 6 == len([reason for reason in reasons if "were read: its retention" in reason])
    assert "Kafka deleted offsets" in worker.said()
    assert [] == site.verdict({"one": first, "two": source}, block_size=BLOCK).problems


def test_restart_and_other_content(site):
    """A worker that `--supervise` starts again when it is killed keeps both contents of a file."""
    rng = harness.seeded()
    worker = site.worker("w1", supervise=True).wait_until_ready()
    (first_pid,) = children(worker.pid)
    try:
        source = site.source({"bad": 5 * BLOCK, "good": 3 * BLOCK}, rng)
        assert 0 == site.producer(source, **FLAGS).wait()
        os.kill(first_pid, signal.SIGKILL)
        wait_for(lambda: not worker.get("/health/"), within=10, what="the worker to be gone")
        worker.wait_until_ready()
        assert [first_pid] != children(worker.pid)
        check_other_content(site, worker, source, rng)
        assert 0 == worker.terminate()
        assert not worker.get("/health/")
    finally:
        for pid in children(worker.pid) if worker.is_running else []:
            os.kill(pid, signal.SIGKILL)
    assert "ended with code 137: starting it again in 1 s" in worker.said()


def children(pid):
    """The processes that *pid* started and that run."""
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
        return [int(child) for child in found.split()]
    return []


def check_other_content(site, worker, source, rng):
    """Another content under the id of a stored file is delivered as a version of its own."""
    file_id = checker.file_id_of(source / "bad", "bad", source="source", block_size=BLOCK)
    site.wait_until_committed()  # a block that is delivered again is acknowledged again
    lose(site, file_id, 2)
    stamp, right = (source / "bad").stat().st_mtime_ns, (source / "bad").read_bytes()
    wrong = bytearray(right)
    wrong[2 * BLOCK + 7] ^= 1
    (source / "new").write_bytes(rng.randbytes(3 * BLOCK + 5))
    runs = []
    for content in (bytes(wrong), right):
        (source / "bad").write_bytes(content)
        os.utime(source / "bad", ns=(stamp, stamp))

        runs.append(site.producer(source, max_attempts=3, retry_base=0.1, **FLAGS))

        assert 0 == runs[-1].wait(), runs[-1].said()
        assert digest(content) in assembled(worker, "bad")
    assert "sent as a new version" in runs[0].said()
    assert " 0 blocks sent" in runs[1].said()


def digest(content):
    """Return the SHA-256 of *content*."""
    return hashlib.sha256(content).hexdigest()


def assembled(worker, name):
    """Return the SHA-256 of every whole file *name* on the worker's disk, from its blocks alone."""
    found = []
    for folder in worker.root.glob(f"{name}*"):
        blocks = sorted(folder.glob("block_*.bin"))
        found.append(digest(b"".join(block.read_bytes() for block in blocks)))
    return found


def lose(site, file_id, block):
    """Publish that a block is lost, though it is on the machine's disk: it is sent again."""
    said = [a for a in site.acks() if (a["file_id"], a["block"]) == (file_id, block)][-1]
    ack = messages.decode_ack(json.dumps(said | {"outcome": "lost"}).encode())
    partition = partition_of(file_id.encode())
    record = (ack.key, messages.encode(ack), None)
    harness.RawSender(site).send([record], partition=partition, topic=topics.ACKS)
