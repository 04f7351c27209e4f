"""The checker finds planted damage. One that does not is broken, and proves nothing."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from streamapp.producer.sources.scan import scan
from streamapp.protocol import fileplan
from streamapp.protocol.frames import BlockMeta
from streamapp.store import BlockStore
from streamapp.store.metadata import BlockMetadata
from tests import checker


GROUP = "group"
SOURCE = "laptop"
BLOCK_SIZE = 1000
SIZES = {"a/b.csv": 2500, "empty": 0, "c": 1000}


def blocks_of(file):
    """Return how many blocks *file* has."""
    return fileplan.FilePlan(file_size=file.size, block_size=BLOCK_SIZE).blocks


def store_block(store, machine, file, data, number, *, version=""):  # noqa: PLR0913 - what a block is
    """Write one block as a worker does; return what it would acknowledge."""
    file_id = version and fileplan.file_id(
        source=SOURCE, name=file.path, size=file.size, mtime_ns=file.mtime_ns,
        block_size=BLOCK_SIZE, version=version,
    )  # fmt: skip
    file_id = file_id or file.file_id
    plan = fileplan.FilePlan(file_size=len(data), block_size=BLOCK_SIZE)
    start, size = plan.span(number)
    payload = data[start : start + size]
    common = {
        "name": file.name,
        "file_size": plan.file_size,
        "blocks": plan.blocks,
        "block_size": plan.block_size,
        "start": start,
        "size": size,
        "mtime_ns": file.mtime_ns,
        "source": SOURCE,
        "sent_ns": 2,
        "version": version,
    }
    stored = BlockMetadata(
        file_id=file_id,
        block=number,
        end=start + size,
        sha256=hashlib.sha256(payload).hexdigest(),
        stored_at=3.0,
        machine=machine,
        group=GROUP,
        **common,
    )
    writer = store.begin(file_id, number, BlockMeta(**common))
    writer.write(payload, offset=0)
    writer.commit(stored)
    names = ("file_id", "block", "blocks", "group", "machine", "size", "sha256", "name")
    ack = {name: getattr(stored, name) for name in names}
    return ack | {"kind": "block", "outcome": "persisted", "attempt": 1}


class World:
    """Two machines that hold three files, and what topics and tables say of them."""

    def __init__(self, folder):
        self.folder = folder
        self.source = folder / "source"
        self.roots = [folder / f"processed_data_m{n}" for n in (1, 2)]
        for name, size in SIZES.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(size))
        files = list(scan(self.source, machine=SOURCE, block_size=BLOCK_SIZE))
        self.acks = self._deliver(files)
        self.views = self._views(files)

    def _deliver(self, files):
        """Store every second block on one machine, the others on the other."""
        stores = [BlockStore([root], min_free=0) for root in self.roots]
        for store in stores:
            store.open()
        acks = [
            store_block(
                stores[number % 2],
                f"m{number % 2 + 1}",
                file,
                (self.source / file.relative).read_bytes(),
                number,
            )
            for file in files
            for number in range(blocks_of(file))
        ]
        for store in stores:
            store.close()
        return acks

    def _views(self, files):
        totals = dict.fromkeys(("bytes", "persisted_bytes"), sum(SIZES.values()))
        return {
            "totals": totals | dict.fromkeys(("files", "complete"), len(files)) | {"superseded": 0},
            "files": [
                {
                    "file_id": file.file_id,
                    "state": "complete",
                    "size": file.size,
                    "persisted_bytes": file.size,
                    "persisted_blocks": blocks_of(file),
                }
                for file in files
            ],
            "blocks": {
                file.file_id: {"runs": [{"first": 0, "bits": f"{2 ** blocks_of(file) - 1:02x}"}]}
                for file in files
            },
            "machines": [{"machine": "m1"}, {"machine": "m2"}],
            "silent": [],
        }

    def verdict(self, *, stopped=True):
        """Return what the checker says now."""
        sources = checker.source_files(self.source, source=SOURCE, block_size=BLOCK_SIZE)
        disks = [checker.read_disk(root, stopped=stopped) for root in self.roots]
        return checker.check(
            disks, self.acks, GROUP, sources=sources, block_size=BLOCK_SIZE, views=self.views
        )

    def bins(self):
        """Return the stored blocks of more than no bytes."""
        found = [p for root in self.roots for p in sorted(root.rglob("*.bin"))]
        return [path for path in found if path.stat().st_size]


@pytest.fixture
def world(tmp_path):
    """What a delivery without any trouble leaves behind."""
    return World(tmp_path)


def metadata_of(path):
    """Return where the metadata of the block at *path* lies."""
    return path.with_name(path.stem + "_metadata.json")


def test_nothing_wrong(world):
    """A delivery without trouble has no problems, and its blocks and files are counted."""
    found = world.verdict()

    assert ([], [], 5, 5, 3) == (
        found.problems,
        found.doubled,
        found.blocks,
        found.acks,
        found.files,
    )
    assert 5 == len(found.holders)


def test_another_version(world):
    """A file that is there under the id of another version is there."""
    change_source(world)
    assert 1 == len(world.verdict().problems)
    (file,) = (
        f for f in scan(world.source, machine=SOURCE, block_size=BLOCK_SIZE) if f.name == "c"
    )
    store = BlockStore([world.roots[0]], min_free=0)
    store.open()
    data = (world.source / "c").read_bytes()
    world.acks.append(store_block(store, "m1", file, data, 0, version="0123456789abcdef"))
    store.close()

    found = world.verdict().problems
    assert [] == [problem for problem in found if "is not what was sent" in problem]


def flip_bit(world):
    """One bit of a block rots."""
    path = world.bins()[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(world):
    """A block loses its last byte."""
    path = world.bins()[0]
    os.truncate(path, path.stat().st_size - 1)


def remove_block(world):
    """A block's bytes vanish, its metadata stay."""
    world.bins()[0].unlink()


def store_under_another_id(world):
    """A block's file is said to have been changed at another time: its id is another one."""
    path = metadata_of(world.bins()[0])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mtime_ns": 1}))


def remove_metadata(world):
    """A block's metadata vanish, its bytes stay."""
    metadata_of(world.bins()[0]).unlink()


def remove_folder_file(world):
    """What a folder's blocks are of vanishes."""
    world.bins()[0].with_name("file.json").unlink()


def swap_blocks(world):
    """Two blocks change places, with their metadata: each still has its own SHA-256."""
    bins = [
        p for p in world.bins() if p.parent.name == "b.csv" and p.is_relative_to(world.roots[0])
    ]
    for first, second in (bins, map(metadata_of, bins)):
        spare = first.with_name("spare")
        first.rename(spare)
        second.rename(first)
        spare.rename(second)


def edit_metadata(world):
    """A block's metadata say another SHA-256."""
    path = metadata_of(world.bins()[0])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "0" * 64}))


def forge_ack(world):
    """A machine acknowledged a block that it does not have."""
    world.acks.append(world.acks[0] | {"machine": "m2"})


def forge_digest(world):
    """An acknowledgement has another SHA-256 than the block."""
    world.acks[0] = world.acks[0] | {"sha256": "0" * 64}


def change_source(world):
    """What was sent is not what the source holds, of the same size and time."""
    path = world.source / "c"
    kept = path.stat()
    path.write_bytes(os.urandom(kept.st_size))
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def add_source(world):
    """A file of the source never arrived."""
    (world.source / "new").write_bytes(b"new")


def store_twice(world):
    """One machine has a block in two folders."""
    folder = world.bins()[0].parent
    other = folder.with_name(folder.name + "~00000000")
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())


def leave_part(world):
    """A half-written block is left after the workers stopped."""
    (world.bins()[0].parent / "block_0009.bin.1.part").write_bytes(b"half")


def plant_link(world):
    """A link lies in a data folder."""
    (world.roots[0] / "link").symlink_to(world.source)


def plant_file(world):
    """Something that no worker writes lies in a data folder."""
    (world.roots[0] / "stranger.txt").write_bytes(b"")


def count_too_much(world):
    """A file's counter is one too high."""
    world.views["files"][0]["persisted_blocks"] += 1


def count_too_few_bytes(world):
    """A file's bytes are one too few."""
    world.views["files"][0]["persisted_bytes"] -= 1


def set_a_bit(world):
    """A bit of a block that is not there is set."""
    next(iter(world.views["blocks"].values()))["runs"][0]["bits"] = "ff"


def forget_row(world):
    """A file that was acknowledged is in no table."""
    world.views["files"].pop()


def wrong_totals(world):
    """The totals are not the sum of the rows."""
    world.views["totals"]["persisted_bytes"] += 1


def silence(world):
    """A worker did not answer: what is shown may not be all."""
    world.views["silent"].append("http://127.0.0.1:1")


def call_complete(world):
    """A file is called complete, though a block of it is not acknowledged."""
    world.acks.pop(0)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_bit, "sha256"),
        (store_under_another_id, "under the id of another file"),
        (truncate, "bytes, expected"),
        (remove_block, "not on the disk"),
        (remove_metadata, "no metadata"),
        (remove_folder_file, "no file.json"),
        (swap_blocks, "metadata says"),
        (edit_metadata, "sha256"),
        (forge_ack, "not on the disk"),
        (forge_digest, "is acknowledged as"),
        (change_source, "is not what was sent"),
        (add_source, "are missing"),
        (store_twice, "is stored twice"),
        (leave_part, "is left over"),
        (plant_link, "is a link"),
        (plant_file, "nothing that a worker writes"),
        (count_too_much, "the tables have"),
        (count_too_few_bytes, "the tables have"),
        (set_a_bit, "wrong"),
        (forget_row, "in no table"),
        (wrong_totals, "the totals are"),
        (call_complete, "the tables have"),
        (silence, "did not answer"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage(world, damage, said):
    """No error found: checker is broken."""
    damage(world)

    assert [] != [problem for problem in world.verdict().problems if said in problem]


def test_running(world):
    """While workers run, a half-written block is no problem."""
    leave_part(world)

    assert [] == world.verdict(stopped=False).problems


def test_doubled(world):
    """A block on two machines is distinguished from one that a machine has twice."""
    source, other = world.roots[0] / "c", world.roots[1] / "c"
    other.mkdir()
    for path in source.iterdir():
        raw = path.read_bytes().replace(b'"machine": "m1"', b'"machine": "m2"')
        (other / path.name).write_bytes(raw)
    verdict = world.verdict()

    assert [] == verdict.problems
    (doubled,) = verdict.doubled
    assert {doubled} == {key for key, held in verdict.holders.items() if held == {"m1", "m2"}}


def test_lost(world):
    """What a machine said that it lost need not be there."""
    lost = world.acks[0] | {"outcome": "lost"}
    found = checker.persisted([*world.acks, lost], GROUP)

    assert len(world.acks) - 1 == len(found)


def test_other_group(world):
    """Acknowledgements of another group are ignored."""
    assert {} == checker.persisted(world.acks, "other")


def test_strays(world):
    """What lies outside the data folders is found, but for what was there before."""
    known = [world.source]
    (world.folder / "evil").write_bytes(b"")

    assert [world.folder / "evil"] == checker.strays(world.folder, world.roots, known)


def test_shares_nothing():
    """The checker shares no code with the program: it imports nothing of it."""
    code = (
        "import sys, tests.checker; "
        "sys.exit(any(m.split('.')[0] in {'streamapp', 'agents', 'tables'} for m in sys.modules))"
    )

    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
