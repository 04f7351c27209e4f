"""Disks that are lost, replaced, swapped and restored: what is not there is sent again, no more.

The judge is the checker: what is acknowledged lies on the disk of the machine that says so, and
every source file is there.
"""

import shutil
import sys

from tests import checker, harness
from tests.harness import DATA_BLOCKS, MIB
from tests.waiting import wait_for


BLOCK = MIB // 8
SIZES = {"a": 12 * BLOCK, "d/b": 7 * BLOCK + 1, "small": 10}
BLOCKS = 12 + 8 + 1
FLAGS = {"block_size": "128KiB", "frame_size": "64KiB", "compression": "none"}
STATE = ".streamapp"


def delivered(site, *names):
    """Start workers and send a folder to them; return the folder and the workers."""
    source = site.source(SIZES, harness.seeded())
    workers = site.ready_workers(*names)
    assert 0 == site.producer(source, **FLAGS).wait()
    site.wait_until_committed()
    return source, workers


def blocks_of(worker):
    """Return the blocks on the disk of *worker*."""
    return {block.key for block in checker.read_disk(worker.root).blocks}


def placed(site):
    """Return which machine has each block, by the newest acknowledgements."""
    found = {}
    for ack in site.acks():
        found.pop((ack["file_id"], ack["block"]), None)
        if ack["outcome"] == "persisted":
            found[ack["file_id"], ack["block"]] = ack["machine"]
    return found


def sent_again(site, source):
    """Run the producer again, which must succeed; return the blocks that it sent."""
    before = site.ends()
    producer = site.producer(source, **FLAGS)
    assert 0 == producer.wait(), producer.said()
    return {
        (file_id.decode(), int(number))
        for record in checker.read_topic(site.brokers, DATA_BLOCKS)
        if record.offset() >= before[record.partition()]
        for file_id, number in [record.key().split(b":")]
    }


def check(site, source):
    """Everything is there, acknowledged by who has it, once, and counted in the tables."""
    site.wait_until_committed()
    verdict = site.verdict({"source": source}, block_size=BLOCK)
    assert ([], [], BLOCKS) == (verdict.problems, verdict.doubled, verdict.blocks)


def empty(worker):
    """Replace the data folder of *worker* by an empty one; its tables stay."""
    gone = worker.root.rename(worker.folder / "gone")
    worker.root.mkdir()
    shutil.copytree(gone / STATE, worker.root / STATE)
    return gone


def test_empty_folder(site):
    """The folder is replaced by an empty one while the worker is down; then the old one is back."""
    source, (worker, other) = delivered(site, "w1", "w2")
    had, others = blocks_of(worker), blocks_of(other)
    assert had
    assert had | others == set(placed(site))
    worker.terminate()
    gone = empty(worker)
    worker.start()
    site.wait_until_shared([worker, other])
    assert others == set(placed(site))

    assert had == sent_again(site, source)
    shutil.rmtree(gone)
    check(site, source)
    assert set() == sent_again(site, source)


def test_old_folder_returns(site):
    """A folder that was taken for lost comes back: what it has is acknowledged again."""
    source, (worker,) = delivered(site, "w1")
    worker.terminate()
    gone = empty(worker)
    worker.start().wait_until_ready()
    assert {} == placed(site)
    worker.terminate()
    shutil.rmtree(worker.root)
    gone.rename(worker.root)
    worker.start().wait_until_ready()

    assert BLOCKS == len(placed(site))
    assert set() == sent_again(site, source)
    check(site, source)


def test_part_of_a_folder(site):
    """One file's folder is removed while the worker is down; nothing else shows it."""
    source, (worker,) = delivered(site, "w1")
    worker.terminate()
    kept = blocks_of(worker)
    shutil.rmtree(worker.root / "d")
    lost = kept - blocks_of(worker)
    assert 8 == len(lost)
    worker.start().wait_until_ready()

    wait_for(
        lambda: kept - lost == set(placed(site)), within=60, what="what is lost to be published"
    )
    assert lost == sent_again(site, source)
    check(site, source)


def test_old_backup(site):
    """A backup from before some files is restored: those that came later are sent again."""
    source = site.source({"a": SIZES["a"]}, harness.seeded())
    worker = site.worker("w1").wait_until_ready()
    assert 0 == site.producer(source, **FLAGS).wait()
    worker.terminate()
    backup = site.folder / "machines" / "backup"
    shutil.copytree(worker.root, backup)
    old = blocks_of(worker)
    worker.start().wait_until_ready()
    site.source({name: size for name, size in SIZES.items() if name != "a"}, harness.seeded())
    assert 0 == site.producer(source, **FLAGS).wait()
    worker.terminate()
    late = blocks_of(worker) - old
    assert BLOCKS - 12 == len(late)

    shutil.rmtree(worker.root)
    backup.rename(worker.root)
    worker.start().wait_until_ready()
    assert old == set(placed(site))  # before it is ready: the folder shows that it is an old copy
    assert late == sent_again(site, source)
    check(site, source)


def test_swapped_folders(site):
    """Two machines get each other's disk: nothing is sent, and each speaks of what it has."""
    source, (first, second) = delivered(site, "w1", "w2")
    had = blocks_of(first), blocks_of(second)
    assert all(had)
    for worker in first, second:
        worker.terminate()
    first.root.rename(site.folder / "swap")
    second.root.rename(first.root)
    (site.folder / "swap").rename(second.root)
    first.start().wait_until_ready()
    second.start()
    site.wait_until_shared([first, second])

    where = placed(site)
    assert had == tuple({key for key in where if where[key] == name} for name in ("w2", "w1"))
    assert set() == sent_again(site, source)
    disks = [checker.read_disk(w.root, stopped=False, persisted_by=None) for w in (first, second)]
    newest = {(ack["file_id"], ack["block"]): ack for ack in site.acks()}
    assert [] == checker.check(disks, [*newest.values()], site.group).problems


def test_moved_while_it_runs(site):
    """A folder that is moved away and replaced under a worker takes nothing until it is back."""
    source, (worker,) = delivered(site, "w1")
    gone = worker.root.rename(worker.folder / "gone")
    worker.root.mkdir()
    wait_for(lambda: "data folder" in reason(worker), within=30, what="the worker to notice")
    more = site.source({"more": 5 * BLOCK}, harness.seeded(), "more")
    producer = site.producer(more, "more", **FLAGS)
    wait_for(lambda: site.records() > 2 * BLOCKS, within=60, what="more to be sent")
    wait_for(lambda: worker.health["state"] == "holding", within=30, what="the worker to hold")
    assert [] == list(worker.root.iterdir())
    assert BLOCKS == len(placed(site))
    assert producer.is_running

    worker.root.rmdir()
    gone.rename(worker.root)
    assert 0 == producer.wait()
    wait_for(lambda: not reason(worker), within=30, what="the worker to go on")
    verdict = site.verdict({"source": source, "more": more}, block_size=BLOCK)
    assert ([], BLOCKS + 5) == (verdict.problems, verdict.blocks)


def reason(worker):
    """Return why *worker* holds."""
    return worker.health.get("reason", "")


def test_machine_that_never_returns(site):
    """A machine is forgotten: not while it is up; then others get what it had, and its row goes."""
    source, (worker, other) = delivered(site, "w1", "w2")
    had = blocks_of(worker)
    assert had
    assert 24 == forget(site, "w1").wait()
    assert BLOCKS == len(placed(site))
    worker.kill()
    command = forget(site, "w1")
    assert 0 == command.wait(), command.said()
    assert blocks_of(other) == set(placed(site))
    shutil.rmtree(worker.folder)
    other.wait_until_ready(range(harness.PARTITIONS))

    assert had == sent_again(site, source)
    check(site, source)
    wait_for(
        lambda: [row["machine"] for row in other.get("/machines/")["machines"]] == ["w2"],
        within=20,
        what="the row of the machine to be removed",
    )


def forget(site, name):
    """Start `streamapp machines forget`."""
    command = [sys.executable, "-m", "streamapp", "machines", "forget", name]
    command += ["--brokers", site.brokers, "--group-id", site.group]
    return site.process("forget", command)


def test_one_machine_id_twice(site, tmp_path):
    """A second worker under a machine id that is up ends with a reason; a restart is no second."""
    _, (worker,) = delivered(site, "w1")
    second = site.worker("w1", data_dir=tmp_path / "machines" / "other")
    site.workers.remove(second)
    assert 24 == second.wait(60)
    assert "another --machine-id" in second.said()
    assert not (tmp_path / "machines" / "other").exists()
    assert BLOCKS == len(placed(site))
    worker.kill()
    worker.start().wait_until_ready()
    assert "machine" not in reason(worker)
