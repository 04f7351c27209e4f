"""Whose bytes are delivered: no forged file, no restored backup, no second machine of one name."""

import json
import os
import shutil
import subprocess
import sys

from tests import checker, harness
from tests.waiting import wait_for


BLOCK = 4096
SIZE = 7000
STAMP = 1_700_000_000_000_000_000
CUT = {"block_size": str(BLOCK)}


def a_file(site, rng, name="source"):
    """Return a folder with one file, whose size and time everybody knows."""
    source = site.source({"report.csv": SIZE}, rng, name)
    os.utime(source / "report.csv", ns=(STAMP, STAMP))
    return source


def contents(site):
    """Return the SHA-256 of every file on the disks, by file id."""
    blocks = {}
    for worker in site.workers:
        for block in checker.read_disk(worker.root, stopped=False).blocks:
            blocks[block.key] = block.path.read_bytes()
    ids = {file_id for file_id, _ in blocks}
    return {i: b"".join(blocks[key] for key in sorted(blocks) if key[0] == i) for i in ids}


def send_nothing(site, *sources, **given):
    """Run the producers once more; they end well, and nothing is sent."""
    before = site.records()
    for source in sources:
        assert 0 == site.producer(source, **CUT, **given).wait(60)
    assert before == site.records()


def free(site, worker, *flags):
    """Run `streamapp versions free` for the machine of *worker*; return what it says in the end."""
    command = [sys.executable, "-m", "streamapp", "versions", "free", "--json", *flags]
    common = ["--brokers", site.brokers, "--group-id", site.group]
    place = ["--machine-id", worker.name, "--data-dir", str(worker.folder)]
    done = subprocess.run(
        [*command, *common, *place], capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_changed_file(site):
    """Of a file that was changed twice all that is current is there; the others can be freed."""
    rng = harness.seeded()
    source = a_file(site, rng)
    (worker,) = site.ready_workers("w1")
    file = source / "report.csv"
    for size in (SIZE, SIZE + 1, SIZE + 2):
        file.write_bytes(rng.randbytes(size))
        assert 0 == site.producer(source, **CUT).wait(60)
    newest = file.read_bytes()

    def progress():
        return worker.get("/progress/")["totals"]

    expected = {"files": 1, "complete": 1, "bytes": SIZE + 2, "persisted_bytes": SIZE + 2}
    wait_for(lambda: progress() == expected | {"superseded": 2}, within=30, what="exact totals")
    assert [] == site.verdict({"source": source}, block_size=BLOCK).problems
    (current,) = (i for i, data in contents(site).items() if data == newest)
    shown = worker.get("/progress/?state=superseded")["files"]
    by = {f["file_id"]: f["superseded_by"] for f in shown}
    assert current in by.values()
    assert set(by) == set(contents(site)) - {current}

    assert 2 == free(site, worker, "--dry-run")["freed"]
    assert 3 == len(contents(site))
    worker.terminate()
    assert 2 == free(site, worker)["freed"]
    assert {current: newest} == contents(site)
    worker.start()
    worker.wait_until_ready()
    send_nothing(site, source)
    assert [] == site.verdict({"source": source}, block_size=BLOCK).problems
    assert {current: newest} == contents(site)


def test_forged_file(site):
    """Bytes under the id of a file, also of its very size, are never taken for the file."""
    rng = harness.seeded()
    source = a_file(site, rng)
    (worker,) = site.ready_workers("w1")
    file_id = checker.file_id_of(
        source / "report.csv", "report.csv", source="source", block_size=BLOCK
    )
    known = {"source": "source", "name": "report.csv", "mtime_ns": STAMP, "ctime_ns": STAMP}
    short = harness.RawBlock(rng, size=5, **known)
    short.file_id = file_id
    whole = [
        harness.RawBlock(
            rng, size=size, number=number, **known,
            file_size=SIZE, blocks=2, block_size=BLOCK, start=number * BLOCK,
        )
        for number, size in enumerate([BLOCK, SIZE - BLOCK])
    ]  # fmt: skip
    assert {file_id} == {block.file_id for block in whole}
    sender = harness.RawSender(site)
    for block in (short, *whole):
        sender.send(block.records(), partition=0)
    wait_for(lambda: len(worker.bins()) == 2, within=60, what="the forged file")
    forged = contents(site)

    assert 0 == site.producer(source, **CUT).wait(60)
    assert [] == site.verdict({"source": source}, block_size=BLOCK).problems
    honest = (source / "report.csv").read_bytes()
    assert 2 == len(contents(site))
    assert forged.items() < contents(site).items()
    assert honest in contents(site).values()
    send_nothing(site, source)
    send_nothing(site, source, verify=True)


def test_restored_backup(site):
    """Other bytes of the same size and time arrive, and what was there before stays there."""
    rng = harness.seeded()
    source = a_file(site, rng)
    site.ready_workers("w1")
    file, wanted = source / "report.csv", set()
    for _ in range(3):
        file.write_bytes(rng.randbytes(SIZE))
        os.utime(file, ns=(STAMP, STAMP))
        wanted.add(file.read_bytes())
        assert 0 == site.producer(source, **CUT).wait(60)
        assert wanted == set(contents(site).values())
        send_nothing(site, source)
    assert [] == site.verdict({"source": source}, block_size=BLOCK).problems


def test_machines_of_one_id(site):
    """Two machines with one id, and files alike but for their bytes: both end with all of them."""
    rng = harness.seeded()
    site.ready_workers("w1")
    sources = [a_file(site, rng, name) for name in ("one", "two")]
    keys = [site.logs / f"key-{source.name}" for source in sources]
    for _ in range(2):
        for source, key in zip(sources, keys, strict=True):
            assert 0 == site.producer(source, state_dir=key, **CUT).wait(60)

    files = [(source / "report.csv").read_bytes() for source in sources]
    assert set(files) == set(contents(site).values())
    assert [] == site.verdict({"source": sources[1]}, block_size=BLOCK).problems
    for source, key in zip(sources, keys, strict=True):
        send_nothing(site, source, state_dir=key)
    shutil.rmtree(keys[1])  # without its key a producer reads, and finds what is its own
    send_nothing(site, sources[1], state_dir=keys[1])


def test_forgotten_file(site):
    """A file that was deleted, and lost with its machine, is ended; its producer may send it."""
    rng = harness.seeded()
    source = site.source({"gone": SIZE, "here": SIZE}, rng)
    (lost,) = site.ready_workers("w1")
    assert 0 == site.producer(source, **CUT).wait(60)
    lost.terminate()
    site.workers.remove(lost)
    shutil.rmtree(lost.folder)
    (worker,) = site.ready_workers("w2")
    streamapp(site, "machines", "forget", "w1", "--group-id", site.group)
    content = (source / "gone").read_bytes()
    (source / "gone").unlink()
    assert 0 == site.producer(source, **CUT).wait(60)

    def totals():
        return worker.get("/progress/")["totals"]

    complete = {"files": 1, "complete": 1, "bytes": SIZE, "persisted_bytes": SIZE}
    stays = {"files": 2, "complete": 1, "bytes": 2 * SIZE, "persisted_bytes": SIZE}
    wait_for(lambda: totals() == stays | {"superseded": 0}, within=30, what="the file to be there")
    forget = ["files", "forget", "--data-folder", str(source), "--machine-id", "source"]
    forget += ["--group-id", site.group]
    assert "would be forgotten: gone" in streamapp(site, *forget, "--dry-run")
    assert "forgotten: gone" in streamapp(site, *forget)
    wait_for(lambda: totals() == complete | {"superseded": 1}, within=30, what="its end")
    (shown,) = worker.get("/progress/?state=superseded")["files"]
    assert ("gone", "") == (shown["name"], shown["superseded_by"])
    assert "no longer has it" in shown["reason"]
    assert "No file" in streamapp(site, *forget)

    (source / "gone").write_bytes(content)
    assert 0 == site.producer(source, **CUT).wait(60)
    wait_for(lambda: 2 == totals()["complete"], within=30, what="the file that came back")


def streamapp(site, *arguments):
    """Run a command of streamapp's; return what it says."""
    command = [sys.executable, "-m", "streamapp", *arguments, "--brokers", site.brokers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout
