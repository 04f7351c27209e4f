"""Requests for long lists of files delay no block, and end no worker."""

import collections
import contextlib
import threading
import time
import urllib.error
import urllib.request

import pytest

from confluent_kafka import Producer

from streamapp.protocol import fileplan, messages, routing
from tests import harness
from tests.harness import MIB
from tests.waiting import wait_for


pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

FILES = 50_000
VIEWERS = 60
FLAGS = {"block_size": "1MiB", "frame_size": "256KiB"}
TABLES_SECONDS = 900  # some hundred records a second are folded


def announce(brokers, count):
    """Publish the status of *count* files that a producer has announced."""
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 100, **harness.QUIET})
    for number in range(count):
        name, mtime_ns = f"logs/{number % 1000}/{number}.log", 1_700_000_000_000_000_000 + number
        identity = {"source": "many", "name": name, "size": 5, "mtime_ns": mtime_ns}
        status = messages.FileStatus(
            file_id=fileplan.file_id(**identity, block_size=MIB),
            state="announced",
            name=name,
            size=5,
            blocks=1,
            block_size=MIB,
            source="many",
            at=time.time(),
        )
        place = routing.partition_of(status.key)
        while True:
            with contextlib.suppress(BufferError):
                value = messages.encode(status)
                producer.produce(harness.STATUS, value, key=status.key, partition=place)
                break
            producer.poll(1)
    assert 0 == producer.flush(60)


def look(url, path, stop, codes):
    """Ask for *path* again and again until *stop*; count the answers by their status."""
    while not stop.is_set():
        try:
            with urllib.request.urlopen(f"{url}{path}", timeout=30) as answer:  # noqa: S310
                answer.read()
                codes[answer.status] += 1
        except urllib.error.HTTPError as error:
            codes[error.code] += 1
            error.close()
        except OSError:
            codes["no answer"] += 1


def test_many_viewers(site):
    """60 clients ask for the largest lists of 50,000 files: a delivery arrives meanwhile."""
    rng = harness.seeded()
    worker = site.worker("w1", watchdog_patience=30).wait_until_ready(range(harness.PARTITIONS))
    pid = worker.pid
    announce(site.brokers, FILES)
    wait_for(
        lambda: (worker.get("/progress/?limit=1") or {}).get("totals", {}).get("files") == FILES,
        within=TABLES_SECONDS,
        what=f"{FILES} files in the tables",
        every=1,
    )
    source = site.source({f"{number}": MIB for number in range(60)}, rng)
    stop, codes = threading.Event(), collections.Counter()
    paths = ["/progress/?limit=1000&offset=9000", "/progress/", "/progress/?local=1&limit=9999999"]
    viewers = [
        threading.Thread(target=look, args=(worker.url, paths[n % 3], stop, codes), daemon=True)
        for n in range(VIEWERS)
    ]
    began = time.monotonic()
    for viewer in viewers:
        viewer.start()
    try:
        assert 0 == site.producer(source, **FLAGS).wait(300)
        seconds = time.monotonic() - began
        wait_for(lambda: codes[200] >= 3, within=120, what="three answered lists")
    finally:
        stop.set()
        for viewer in viewers:
            viewer.join(60)
    print(f"60 MiB delivered in {seconds:.1f} s beside {VIEWERS} viewers; answers: {dict(codes)}")  # noqa: T201
    assert (pid, True) == (worker.pid, worker.is_running)
    assert "watchdog" not in worker.said()
    assert [] == site.verdict({"source": source}, with_tables=False).problems
