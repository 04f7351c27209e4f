"""Partitions move while a worker cannot write, or writes slowly: that is no crash."""

import json

import pytest

from tests import harness
from tests.faults import hampered
from tests.harness import MIB, PARTITIONS
from tests.waiting import wait_for


SMALL = {"block_size": "1MiB", "frame_size": "256KiB", "compression": "none"}
BLOCKS = 4 * PARTITIONS
GIB = 1 << 30


@pytest.fixture
def disk(tmp_path):
    """Return a function that changes the disk of the worker w1."""
    path = tmp_path / "logs" / "disk.json"

    def change(**wanted):
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"free": GIB, "write_seconds": 0} | wanted), "utf-8")
        new.rename(path)
        return {"module": "tests.faults.hampered", "environment": {hampered.DISK: str(path)}}

    return change


def is_holding(worker):
    """Return whether *worker* waits for room in three partitions or more."""
    return worker.health.get("state") == "holding" and worker.said().count(" holds: ") >= 3


def test_holding(site, disk):
    """A worker whose disk is full runs on when others join, and stores its blocks later."""
    source = site.source({f"f{n}": MIB for n in range(BLOCKS)}, harness.seeded())
    w1 = site.worker("w1", **disk(free=0)).wait_until_ready(range(PARTITIONS))
    producer = site.producer(source, **SMALL)
    wait_for(lambda: is_holding(w1), within=60, what="w1 to hold")

    w2 = site.worker("w2").wait_until_ready()
    w2.kill()  # what it had comes back to w1
    wait_for(
        lambda: w1.health.get("partitions") == [*range(PARTITIONS)],  # not ready: it holds
        within=60,
        what="w1 to have all partitions again",
        every=0.2,
    )
    disk()

    assert 0 == producer.wait()
    assert w1.is_running
    assert "Restarting dead" not in w1.said()
    assert w1.bins()
    verdict = site.verdict({"source": source})
    assert ([], BLOCKS) == (verdict.problems, verdict.files)


def test_slow(site, disk):
    """Three rebalances in a row end no worker that is writing, and lose nothing."""
    source = site.source({f"f{n}": MIB for n in range(BLOCKS)}, harness.seeded())
    slow = disk(write_seconds=0.7)
    w1 = site.worker("w1", **slow).wait_until_ready(range(PARTITIONS))
    producer = site.producer(source, **SMALL)
    site.wait_until_stored(1)

    w2 = site.worker("w2", **slow).wait_until_ready()
    w3 = site.worker("w3", **slow).wait_until_ready()
    assert 0 == w2.terminate()
    site.wait_until_shared([w1, w3])
    disk()

    assert 0 == producer.wait()
    for worker in (w1, w3):
        assert worker.is_running
        assert "Restarting dead" not in worker.said()
        assert worker.bins()
    verdict = site.verdict({"source": source})
    assert ([], BLOCKS) == (verdict.problems, verdict.files)
