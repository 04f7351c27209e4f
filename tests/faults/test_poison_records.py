"""Records that no consumer can decode, on a real Kafka: they are quarantined, workers continue."""

import functools

import pytest

from streamapp.broker import Cluster
from streamapp.protocol import topics
from tests import checker, harness
from tests.batches import HEADER, bomb, built, compressed, produce, record_before, sealed
from tests.harness import DATA_BLOCKS, MIB
from tests.waiting import wait_for


BLOCKS = 12
BOMB_BYTES = 300_000_000
FAR = 1 << 30
PLAIN = built([(b"k", b"value", [("NAME", b"")])])
NO_TEXT = sealed(PLAIN, PLAIN[HEADER.size :].replace(b"NAME", b"\xff\xfe\xfd\xfc"))
SMALL_BYTES = 1_000_000  # what a topic takes that is not for blocks
PEAK_BYTES = 300 * MIB  # what a worker may have without bombs too


HEAP_MIB = 1536
"""The broker decompresses bombs too, where it checks the keys of a compacted topic."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    """A broker of this module's own, which holds what the bombs decompress to."""
    with Cluster(tmp_path_factory.mktemp("kafka"), heap_mib=HEAP_MIB) as cluster:
        yield cluster.bootstrap


@functools.cache
def poison():
    """Return batches that Kafka takes, how many records each has, and why they are quarantined."""
    headers = [(f"{n}", b"") for n in range(200_000)]
    three = built([(b"k", b"1", []), (b"k", b"2", []), (b"k", b"3", [])])
    forged = sealed(PLAIN, record_before(1, offset=FAR) + b"x\0")
    big = "'more than 67108864 bytes once decompressed from "
    return [
        (NO_TEXT, 1, "a frame header of 0 bytes"),
        (compressed(NO_TEXT, "zstd"), 1, "a frame header of 0 bytes"),
        (built([(b"k", b"x", headers)]), 1, "more than 8 headers"),
        (compressed(three, "snappy"), 3, "'compressed with snappy, which is not read"),
        (compressed(three, "lz4"), 3, "'compressed with lz4, which is not read"),
        (bomb("zstd", BOMB_BYTES), 1, big + "zstd"),
        (bomb("gzip", BOMB_BYTES), 1, big + "gzip"),
        (bomb("snappy", BOMB_BYTES // 3), 1, "'compressed with snappy"),
        (bomb("lz4", BOMB_BYTES), 1, "'compressed with lz4"),
        (forged, 1, f"'offset {FAR + 13}, expected 13 to 13"),
    ]


def small_poison():
    """Return the batches among it that every topic takes."""
    return [batch for batch, *_ in poison() if len(batch) < SMALL_BYTES]


def peak_bytes(process):
    """Return the most memory that *process* ever had."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:  # noqa: PTH123 - no file
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def test_blocks(site):
    """A file that is sent behind it arrives whole, and the group is done with every record."""
    source = site.source({"good": BLOCKS * MIB}, harness.seeded())
    worker = site.worker("w1").wait_until_ready()
    produce(site.brokers, DATA_BLOCKS, 0, [batch for batch, *_ in poison()])

    assert 0 == site.producer(source, block_size="1MiB").wait()

    site.wait_until_committed()
    assert [] == site.verdict({"source": source}).problems
    found = sorted(site.statuses()["quarantined"], key=lambda q: q["offset"])
    expected = [reason for _, count, reason in poison() for _ in range(count)]
    assert list(range(len(expected))) == [q["offset"] for q in found]
    for said, reason in zip(found, expected, strict=True):
        assert reason in said["reason"]
    assert peak_bytes(worker) < PEAK_BYTES


@pytest.mark.parametrize("topic", [topics.ACKS, topics.STATUS])
def test_small_topics(site, topic):
    """Acknowledgements and status are read past it, by workers and by producers."""
    source = site.source({"good": BLOCKS * MIB}, harness.seeded())
    worker = site.worker("w1").wait_until_ready()
    for partition in range(topics.FILE_PARTITIONS):
        produce(site.brokers, topic, partition, small_poison())

    assert 0 == site.producer(source, block_size="1MiB").wait()

    assert (source / "good").read_bytes() == b"".join(
        path.read_bytes() for path in sorted(worker.bins())
    )
    file_id = checker.file_id_of(source / "good", "good", source="source", block_size=MIB)
    wait_for(
        lambda: (worker.get(f"/progress/{file_id}/") or {}).get("state") == "complete",
        within=30,
        what="the tables",
    )


def test_changelogs(site):
    """Tables come back from changelogs that have records that nobody can read."""
    source = site.source({"good": BLOCKS * MIB}, harness.seeded())
    worker = site.worker("w1").wait_until_ready()
    assert 0 == site.producer(source, block_size="1MiB").wait()
    assert [] == site.verdict({"source": source}).problems
    worker.terminate()
    for table in topics.TABLES:
        for partition in range(topics.FILE_PARTITIONS):
            name = f"{site.group}-{table}-changelog"
            produce(site.brokers, name, partition, small_poison()[2:])

    worker.start().wait_until_ready()

    assert [] == site.verdict({"source": source}).problems
