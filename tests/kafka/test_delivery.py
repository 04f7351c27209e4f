"""What a producer and its workers promise on a real Kafka when nothing but a person interferes."""

import os
import signal
import sys
import time

from tests import checker, harness
from tests.harness import MIB
from tests.waiting import wait_for


FRAMES = 4
SMALL = {"block_size": "1MiB", "frame_size": "256KiB", "compression": "none"}


def test_folder_arrives(site):
    """Every kind of file arrives whole; the second run opens and sends nothing."""
    rng = harness.seeded()
    sizes = {
        "empty": 0,
        "one byte": 1,
        "one block.bin": MIB,
        "one block and a byte.bin": MIB + 1,
        "deep/er/still/table.csv": 5 * MIB + 17,
        "Müller & Søn/報告書.txt": 300_000,
        "-rf": 10,
    }
    source = site.source(sizes, rng)
    (source / "deep" / "text.csv").write_text("temperature,20.5\n" * 100_000, "ascii")
    site.ready_workers("w1", "w2")

    assert 0 == site.producer(source, block_size="1MiB").wait()
    verdict = site.verdict({"source": source})
    assert ([], [], len(sizes) + 1) == (verdict.problems, verdict.doubled, verdict.files)

    sent = site.records()
    assert 0 == site.producer(source, block_size="1MiB").wait(30)
    assert sent == site.records()

    assert site.stop_workers() < harness.STOP_SECONDS
    assert [] == site.verdict({"source": source}, stopped=True).problems
    assert 0 == checked_by_hand(site, source)
    damaged = max(site.workers[0].bins(), key=lambda path: path.stat().st_size)
    with damaged.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    assert 1 == checked_by_hand(site, source)


def checked_by_hand(site, source):
    """Return the exit code of the checker's command line."""
    machines = [part for worker in site.workers for part in ("--machine", worker.root)]
    where = ["--brokers", site.brokers, "--group", site.group, "--stopped", *machines]
    sent = ["--source", source, "--source-id", "source", "--block-size", str(MIB)]
    command = [sys.executable, "-m", "tests.checker", *where, *sent]
    return site.process(f"checker-{time.monotonic_ns()}", command).wait()


def test_producer_killed(site):
    """A producer that is killed half-way: the next run sends the rest, and only the rest."""
    blocks = 96
    rng = harness.seeded()
    source = site.source({"a": 40 * MIB, "b": 30 * MIB, "c": 26 * MIB}, rng)
    site.ready_workers("w1", "w2")
    slow = {"readers": 1, "send_buffer": "4MiB", **SMALL}
    first = site.producer(source, **slow)
    wait_for(
        lambda: site.records() >= blocks * FRAMES // 2,
        within=60,
        what="half of the frames",
        every=0,
    )
    first.kill()
    site.wait_until_committed()  # incomplete blocks expire
    there = {(a["file_id"], a["block"]) for a in site.acks() if a["outcome"] == "persisted"}
    assert 0 < len(there) < blocks
    before = site.records()

    assert 0 == site.producer(source, **SMALL).wait()

    assert (blocks - len(there)) * FRAMES == site.records() - before
    verdict = site.verdict({"source": source})
    assert ([], [], blocks) == (verdict.problems, verdict.doubled, verdict.acks)


def test_two_producers(site):
    """Two producers at once, same names, different content: both arrive, neither is mixed."""
    rng = harness.seeded()
    sizes = {"data/report.csv": 12 * MIB + 5, "same.bin": MIB}
    sources = {name: site.source(sizes, rng, name) for name in ("east", "west")}
    stamp = 1_700_000_000_000_000_000  # the same time and size: only the content differs
    for folder in sources.values():
        for path in folder.rglob("*.*"):
            os.utime(path, ns=(stamp, stamp))
    site.ready_workers("w1", "w2")

    producers = [site.producer(folder, name, **SMALL) for name, folder in sources.items()]

    assert [0, 0] == [producer.wait() for producer in producers]
    verdict = site.verdict(sources)
    assert ([], [], 4) == (verdict.problems, verdict.doubled, verdict.files)


def test_any_worker_answers(site):
    """Each of two workers gives the same right answer for each of 40 files."""
    rng = harness.seeded()
    sizes = {f"file-{number:02d}": rng.randrange(3 * MIB) for number in range(40)}
    source = site.source(sizes, rng)
    workers = site.ready_workers("w1", "w2")

    assert 0 == site.producer(source, block_size="1MiB").wait()

    assert [] == site.verdict({"source": source}).problems
    files = checker.source_files(source, source="source", block_size=MIB)
    for file_id, path in files.items():
        answers = [worker.get(f"/progress/{file_id}/") for worker in workers]
        size = path.stat().st_size
        right = {"name": path.name, "persisted_bytes": size, "size": size, "state": "complete"}
        assert [right, right] == [{name: a[name] for name in right} for a in answers]
        assert answers[0] == answers[1]
    unknown = [worker.get(f"/progress/{'0' * 32}/") for worker in workers]
    assert ["error", "error"] == [name for answer in unknown for name in answer]


def test_file_changed(site):
    """A file that is written while it is sent is reported, and not delivered as if whole."""
    rng = harness.seeded()
    size = 256 * MIB
    source = site.source({"a-small": MIB, "z-small": MIB}, rng)
    growing = source / "growing"
    growing.touch()
    os.truncate(growing, size)
    changed_id = checker.file_id_of(growing, "growing", source="source", block_size=MIB)
    site.ready_workers("w1")

    producer = site.producer(source, **SMALL)
    wait_for(lambda: site.records() > 2 * FRAMES, within=60, what="frames", every=0)
    producer.pause()
    assert site.records() < FRAMES * size // MIB  # not all of it is sent
    with growing.open("ab") as file:
        file.write(b"more")
    producer.resume()

    assert 4 == producer.wait()
    assert "changed" in producer.said()
    said = [s["state"] for s in site.statuses()["file"] if s["file_id"] == changed_id]
    assert "changed" == said[-1]
    site.wait_until_committed()
    verdict = site.verdict()
    assert [] == verdict.problems
    answer = site.workers[0].get(f"/progress/{changed_id}/")
    assert ("changed", True) == (answer["state"], answer["persisted_blocks"] < answer["blocks"])

    assert 0 == site.producer(source, **SMALL).wait()  # it is a file of another id now
    assert [] == site.verdict({"source": source}).problems


def test_producer_stopped(site):
    """Ctrl-C ends a producer within seconds, while no worker is up; the same command resumes."""
    rng = harness.seeded()
    source = site.source({"a": 8 * MIB}, rng)
    producer = site.producer(source, **SMALL)
    wait_for(lambda: site.records() == 8 * FRAMES, within=60, what="all frames")

    producer.send(signal.SIGINT)

    assert 130 == producer.wait(10)
    assert "The same command resumes" in producer.said()
    site.ready_workers("w1")
    site.wait_until_committed()  # what Kafka has arrives without any producer
    assert 0 == site.producer(source, **SMALL).wait()
    assert 8 * FRAMES == site.records()
    assert [] == site.verdict({"source": source}).problems


def test_new_group(site):
    """What a group without a position will read is said; --no-wait says that no disk has it."""
    rng = harness.seeded()
    first = site.source({"a": MIB, "b": MIB}, rng, name="first")
    other = site.source({"c": MIB}, rng, name="other")

    producer = site.producer(first, name="first", no_wait=True, **SMALL)
    assert 0 == producer.wait()
    assert "2 files: 2 in Kafka, not yet on disk" in producer.said()
    assert "has no position" not in producer.said()  # there was nothing to read
    assert 2 * FRAMES == site.records()

    producer = site.producer(other, name="other", no_wait=True, **SMALL)
    assert 0 == producer.wait()
    assert f"group {site.group} has no position in topic data-blocks" in producer.said()
    assert f"{2 * FRAMES} records, up to 2.0 MiB" in producer.said()

    (worker,) = site.ready_workers("w1")
    assert f"{3 * FRAMES} records, up to" in worker.said()
    assert 0 == site.producer(first, name="first", **SMALL).wait()
    site.wait_until_committed()
    (first / "d").write_bytes(rng.randbytes(MIB))
    producer = site.producer(first, name="first", **SMALL)
    assert 0 == producer.wait()
    assert "has no position" not in producer.said()
    assert [] == site.verdict({"first": first, "other": other}).problems
