"""A full disk: the worker holds, reports it, deletes nothing, and resumes when space is free."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from streamapp.protocol import fileplan
from tests import harness
from tests.harness import MIB
from tests.waiting import wait_for


FLAGS = {"block_size": "4MiB", "frame_size": "1MiB", "compression": "none"}
BLOCK = 4 * MIB
SMALL, LARGE = "64m", "256m"
MIN_FREE = 8 * MIB
SIZE = 25 * BLOCK  # more than the small volume has, much less than the large one

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("mount"),
        reason="not proven: a full disk (R5); needs Linux, root and mount for a tmpfs",
    ),
]


@pytest.fixture
def volume(tmp_path):
    """A small volume of memory; gone after the test."""
    folder = tmp_path / "machines" / "w1"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", folder],  # noqa: S607
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"not proven: a full disk (R5); cannot mount a tmpfs: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # noqa: S607


def resize(volume, size):
    """Give the volume another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", volume], check=True)  # noqa: S607


def free(volume):
    """Return the bytes that are free."""
    return shutil.disk_usage(volume).free


def test_injector(volume):
    """The small volume is full when it is full, and has room when it is made larger."""
    full = volume / "full"
    with contextlib.suppress(OSError), full.open("wb", buffering=0) as file:
        while file.write(bytes(MIB)):
            pass
    assert full.stat().st_size <= 64 * MIB
    assert free(volume) == 0

    resize(volume, LARGE)

    assert free(volume) > 128 * MIB


def test_disk_full(volume, site):
    """Blocks that do not fit wait and are not skipped; when space is free the worker resumes."""
    rng = harness.seeded()
    source = site.source({"large": SIZE}, rng)
    worker = site.worker("w1", min_free=MIN_FREE, block_timeout=3)
    worker.wait_until_ready()
    producer = site.producer(source, **FLAGS)

    def holds():
        return worker.health.get("state") == "holding" and "disk full" in worker.health["reason"]

    wait_for(holds, within=60, what="the worker to say that its disk is full", every=0.2)
    machine = wait_for(
        lambda: [m for m in worker.get("/machines/")["machines"] if m["state"] == "holding"],
        within=10,
        what="the machine's row to say it",
    )[0]
    assert "disk full" in machine["reason"]
    assert machine["up"]
    heartbeats_for(site, 3)  # blocks that had room get done
    stored = site.stored()
    assert 0 < stored < SIZE // BLOCK
    assert free(volume) >= MIN_FREE

    heartbeats_for(site, 5)  # longer than a block may be idle: blocks that wait are not expired
    assert holds()
    assert stored == site.stored()
    assert producer.is_running

    with harness.healing("disk full, room made"):
        resize(volume, LARGE)
        site.wait_until_stored(stored + 1)

    assert 0 == producer.wait()
    assert "running" == wait_for(lambda: worker.health.get("state"), within=10, what="health")
    acks = site.acks()
    assert ["persisted"] * (SIZE // BLOCK) == [ack["outcome"] for ack in acks]
    assert 1 == len({ack["attempt"] for ack in acks})  # nothing had to be sent again
    assert SIZE // MIB == site.records()
    verdict = site.verdict({"source": source}, block_size=BLOCK)
    assert ([], [], SIZE // BLOCK) == (verdict.problems, verdict.doubled, verdict.acks)


def heartbeats_for(site, seconds):
    """Wait until the heartbeats of the one worker, as Kafka has them, are so much later."""

    def last():
        return max(beat["at"] for beat in site.statuses()["machine"])

    until = last() + seconds
    wait_for(lambda: last() > until, within=30, what="heartbeats to go on", every=0.3)


def declaring(rng, size):
    """Return the first frame of a block that declares *size* bytes, of a source of its own."""
    block = harness.RawBlock(rng, size=2, frames=2, source=f"evil-{rng.randbytes(4).hex()}")
    block.meta |= dict.fromkeys(("file_size", "block_size", "size"), size)
    fields = {name: block.meta[name] for name in ("source", "name", "mtime_ns", "block_size")}
    block.file_id = fileplan.file_id(**fields, size=size)
    return block.records()[0]


def test_records_that_declare_the_free_disk(volume, site):
    """Records of a few bytes that declare all that is free keep no honest file waiting."""
    rng = harness.seeded()
    source = site.source({"honest": 6 * BLOCK}, rng)
    worker = site.worker("w1", min_free=MIN_FREE, block_timeout=10).wait_until_ready()
    sender = harness.RawSender(site)
    sent = [[] for _ in range(harness.PARTITIONS)]

    def attack():
        for partition, records in enumerate(sent):
            records.append(declaring(rng, free(volume) - MIN_FREE))
            sender.send(records[-5:], partition=partition)  # some were sent before

    for _ in range(4):
        attack()
    wait_for(
        lambda: len(list(worker.root.rglob("*.part"))) >= 4 * len(sent),
        within=30,
        what="the blocks to begin",
    )
    producer = site.producer(source, **FLAGS)
    reasons = set()
    while producer.is_running:
        attack()
        reasons.add(worker.health["reason"])
        heartbeats_for(site, 1)
    assert (0, {""}) == (producer.wait(), reasons)

    site.wait_until_committed(within=90)
    assert {"honest"} == {path.parent.name for path in worker.bins()}
    assert [] == list(worker.root.glob("raw*"))
    verdict = site.verdict({"source": source}, block_size=BLOCK)
    assert ([], 6) == (verdict.problems, verdict.acks)
