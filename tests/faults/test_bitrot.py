"""Bits flip on the workers' disks: the block is found, quarantined, revoked and sent again."""

import json
import sys
import time

from pathlib import Path

from tests import checker, harness
from tests.harness import DATA_BLOCKS, DELIVERY_SECONDS, MIB
from tests.waiting import wait_for


BLOCK = MIB // 4
SIZES = {"a": 30 * BLOCK, "d/b": 9 * BLOCK + 1, "small": 10}
BLOCKS = 41
ROTTEN = 10
FLAGS = {"block_size": "256KiB", "frame_size": "64KiB", "compression": "none"}
SCRUB = {"scrub_rate": "1GiB", "scrub_every": "0.0003"}
"""A reading every second."""


def flip(path, rng):
    """Flip one bit of the file at *path*; return its file id and number."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return key_of(path)


def key_of(path):
    """Return file id and number of the block at *path*."""
    said = json.loads(path.with_name(f"{path.stem}_metadata.json").read_bytes())
    return said["file_id"], said["block"]


def lost(site):
    """Return the blocks whose last word is that they are lost, by file id and number."""
    last = {(ack["file_id"], ack["block"]): ack["outcome"] for ack in site.acks()}
    return {key for key, outcome in last.items() if outcome == "lost"}


def sent_since(site, ends):
    """Return the blocks whose frames came behind *ends*, by file id and number."""
    return {
        (file_id.decode(), int(number))
        for record in checker.read_topic(site.brokers, DATA_BLOCKS)
        if record.offset() >= ends[record.partition()]
        for file_id, number in [record.key().split(b":")]
    }


def verify(site, worker, *flags):
    """Run `streamapp verify` on the folder of *worker*; return its exit code and lines."""
    command = [sys.executable, "-m", "streamapp", "verify", "--json", "--brokers", site.brokers]
    command += ["--group-id", site.group, "--data-dir", worker.folder, *flags]
    process = site.process(f"verify-{time.monotonic_ns()}", command)
    return process.wait(), [json.loads(line) for line in process.said().splitlines()]


def delivered(site, rng, **flags):
    """Deliver a source to one worker; return source and worker."""
    source = site.source(SIZES, rng)
    (worker,) = site.ready_workers("w1", **flags)
    assert 0 == site.producer(source, **FLAGS).wait()
    assert BLOCKS == site.stored()
    return source, worker


def check_sent_again(site, source, worker, rotten):
    """The tables count what is left; the producer sends exactly what is not, and all is whole."""
    verdict = site.verdict(block_size=BLOCK)
    assert [] == verdict.problems
    assert BLOCKS - ROTTEN == verdict.blocks == verdict.acks
    ends = site.ends()
    assert 0 == site.producer(source, **FLAGS).wait()

    assert rotten == sent_since(site, ends)
    verdict = site.verdict({"source": source}, block_size=BLOCK)
    assert [] == verdict.problems
    assert BLOCKS == verdict.blocks == verdict.acks
    kept = list((worker.root / "quarantine").glob("*.bin"))
    assert rotten == {(p.stem[:32], int(p.stem[33:])) for p in kept}
    assert 0 == verify(site, worker)[0]


def test_scrub(site):
    """A worker finds what rotted under it, says so, and gets exactly those blocks again."""
    rng = harness.seeded()
    source, worker = delivered(site, rng, **SCRUB)
    rotten = {flip(path, rng) for path in rng.sample(sorted(worker.bins()), ROTTEN)}
    with harness.healing(f"{ROTTEN} blocks rotten, found by the scrub and sent again"):
        wait_for(lambda: lost(site) == rotten, within=60, what="the losses to be told", every=0.3)
        check_sent_again(site, source, worker, rotten)
    assert any(s["corrupt"] == ROTTEN for s in site.statuses()["machine"])
    assert 0 == worker.terminate()
    assert [] == site.verdict({"source": source}, block_size=BLOCK, stopped=True).problems


def test_verify(site):
    """`streamapp verify` finds it beside a worker; with ``--repair`` it is sent again."""
    rng = harness.seeded()
    source, worker = delivered(site, rng, scrub_rate=0)
    rotten = {flip(path, rng) for path in rng.sample(sorted(worker.bins()), ROTTEN)}

    code, lines = verify(site, worker)
    assert 1 == code
    assert rotten == {(line["file_id"], line["block"]) for line in lines[:-1]}
    assert BLOCKS == lines[-1]["blocks"] == len(worker.bins())
    assert 0 == worker.terminate()
    assert 1 == verify(site, worker, "--repair")[0]
    assert rotten == lost(site)
    worker.start()
    worker.wait_until_ready()
    check_sent_again(site, source, worker, rotten)


def test_producer_that_waits(site):
    """A producer that is still waiting for other blocks sends again what is lost meanwhile."""
    rng = harness.seeded()
    source = site.source(SIZES, rng)
    (worker,) = site.ready_workers("w1", max_blocks=BLOCKS - 1)
    producer = site.producer(source, **FLAGS)
    assert 0 == worker.wait(DELIVERY_SECONDS)  # one block is missing: the producer waits
    rotten = flip(rng.choice(sorted(worker.bins())), rng)
    assert 1 == verify(site, worker, "--repair")[0]
    assert {rotten} == lost(site)
    wait_for(
        lambda: "a machine lost it after it was stored" in producer.said(),
        within=30,
        what="the producer to read of the loss",
    )
    assert producer.is_running
    other = site.worker("w1", data_dir=worker.folder)
    site.workers.remove(worker)

    assert 0 == producer.wait()
    other.wait_until_ready()
    assert [] == site.verdict({"source": source}, block_size=BLOCK).problems


def test_scrub_ends_at_once(site):
    """A worker that is stopped while it verifies slowly ends at once, and reports nothing false."""
    rng = harness.seeded()
    source, worker = delivered(site, rng, scrub_rate=0)
    assert 0 == worker.terminate()
    slow = site.worker("w1", data_dir=worker.folder, scrub_rate="1KiB", scrub_every="0.0003")
    site.workers.remove(worker)
    slow.wait_until_ready()
    folder = Path(f"/proc/{slow.pid}/fd")

    def is_reading():
        return any(str(p.readlink()).endswith(".bin") for p in folder.iterdir() if p.is_symlink())

    wait_for(is_reading, within=30, what="the scrub to read a block")
    began = time.monotonic()
    assert 0 == slow.terminate()

    assert time.monotonic() - began < 10
    assert set() == lost(site)
    assert [] == site.verdict({"source": source}, block_size=BLOCK, stopped=True).problems
