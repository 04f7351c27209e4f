"""Reading blocks again: everything that rots is found, and nothing else is accused."""

import errno
import json
import os
import random
import threading

from pathlib import Path

import pytest

from streamapp.errors import StoreError
from streamapp.integrity import verify
from streamapp.integrity.verify import Pace, State
from streamapp.protocol import fileplan
from streamapp.protocol.frames import BlockMeta
from streamapp.store import dirfd
from streamapp.store.data_folder import DataFolder
from streamapp.units import KIB, MIB
from tests.integration.blocks import file_id_of, flip, keep_block, keep_file


SIZE = 10_000
BLOCK = 1_000


@pytest.fixture
def root(tmp_path):
    """A data folder with three files, 21 blocks."""
    root = DataFolder(tmp_path / "processed_data_m", min_free=0)
    root.open()
    for name, size in {"a": SIZE, "b/c": SIZE, "empty": 0}.items():
        keep_file(root, name, size=size, block_size=BLOCK)
    yield root
    root.close()


def look(root, **kwargs):
    """Return all verdicts on *root*, a path or a `DataFolder`."""
    return list(verify.blocks(getattr(root, "path", root), Pace(), **kwargs))


def bad(root):
    """Return what is bad: ``{(folder, block): state}``."""
    return {("/".join(v.parts), v.block): v.state for v in look(root) if not v.is_good}


def snapshot(path):
    """Return every file below *path* with its content and time of change."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file()}


def test_all_good(root):
    """A good store has a good verdict for every block, in order, and stays as it was."""
    before = snapshot(root.path)
    verdicts = look(root)

    places = [("/".join(v.parts), v.block) for v in verdicts]
    assert [("a", n) for n in range(10)] == places[:10]
    assert [*(("b/c", n) for n in range(10)), ("empty", 0)] == places[10:]
    assert {State.GOOD} == {v.state for v in verdicts}
    assert 2 * SIZE == sum(v.size for v in verdicts)
    assert before == snapshot(root.path)


def test_one_bit(tmp_path):
    """One flipped bit in each of 100 blocks: 100 of 100 are found, and no other one."""
    seed = random.randrange(1 << 32)  # noqa: S311 - no secret
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    rng = random.Random(seed)  # noqa: S311
    root = DataFolder(tmp_path / "data", min_free=0)
    root.open()
    for number in range(20):
        keep_file(root, f"f{number:02d}", size=SIZE, block_size=BLOCK, seed=number)
    bins = sorted(root.path.rglob("*.bin"))
    chosen = rng.sample(bins, 100)
    for path in chosen:
        flip(path, rng.randrange(8 * BLOCK))
    found = [v for v in look(root) if not v.is_good]
    root.close()

    assert 200 == len(bins)
    assert sorted(chosen) == sorted(v.path for v in found)
    assert {State.CORRUPT} == {v.state for v in found}
    assert all("SHA-256" in v.reason and v.meta and v.file for v in found)


def test_every_bit_of_metadata(tmp_path):
    """A flipped bit in a block's metadata accuses that block or nobody, and never raises."""
    root = DataFolder(tmp_path / "data", min_free=0)
    root.open()
    keep_file(root, "a", size=3 * 10, block_size=10)
    path = root.path / "a" / "block_0001_metadata.json"
    good = path.read_bytes()
    harmless = 0
    bits = range(0, 8 * len(good), 11)  # 11: every place in a byte has its turn
    for bit in bits:
        flip(path, bit)
        found = bad(root)
        path.write_bytes(good)
        assert found in ({}, {("a", 1): State.METADATA}, {("a", 1): State.CORRUPT}), bit
        harmless += not found
    root.close()

    # White space, and what does not say what the block is: times, machine, group, format.
    assert harmless < len(bits) * 0.4


def test_every_bit_of_file_json(tmp_path):
    """A flipped bit in ``file.json`` accuses that file alone: no block is lost by it."""
    root = DataFolder(tmp_path / "data", min_free=0)
    root.open()
    keep_file(root, "a", size=30, block_size=10)
    path = root.path / "a" / "file.json"
    good = path.read_bytes()
    found_bits = 0
    bits = range(0, 8 * len(good), 11)  # 11: every place in a byte has its turn
    for bit in bits:
        flip(path, bit)
        found = bad(root)
        path.write_bytes(good)
        assert found in ({}, {("a", 0): State.FILE_JSON}), bit
        found_bits += bool(found)
    root.close()

    assert found_bits > len(bits) * 0.6


@pytest.mark.parametrize("size", [0, BLOCK - 1, BLOCK + 1, 10 * BLOCK])
def test_other_size(root, size):
    """Truncated or extended bytes are corrupt."""
    os.truncate(root.path / "a/block_0003.bin", size)

    assert {("a", 3): State.CORRUPT} == bad(root)


def test_swapped(root):
    """Bytes of one block under the name of another are corrupt, both."""
    first, second = root.path / "a/block_0003.bin", root.path / "b/c/block_0005.bin"
    spare = root.path / "spare"
    first.rename(spare)
    second.rename(first)
    spare.rename(second)

    assert {("a", 3): State.CORRUPT, ("b/c", 5): State.CORRUPT} == bad(root)


def test_swapped_with_metadata(root):
    """Nor does it help when the metadata are swapped too: they speak of another block."""
    for suffix in (".bin", "_metadata.json"):
        first, second = (root.path / f"a/block_000{n}{suffix}" for n in (3, 5))
        spare = root.path / "spare"
        first.rename(spare)
        second.rename(first)
        spare.rename(second)

    assert {("a", 3): State.METADATA, ("a", 5): State.METADATA} == bad(root)


@pytest.mark.parametrize("damage", [None, b"", b"{", b"\xff", b"[]", b"{}", b"0" * 70_000])
def test_metadata_are_gone(root, damage):
    """Bytes without metadata that can be read are nothing that can be proven."""
    path = root.path / "a/block_0003_metadata.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)

    assert {("a", 3): State.METADATA} == bad(root)


@pytest.mark.parametrize("damage", [None, b"", b"{", b"\xff"])
@pytest.mark.parametrize("folder", ["a", "b/c", "empty"])
def test_file_json_is_gone(root, folder, damage):
    """The blocks' metadata say what the file is: its blocks are not lost with ``file.json``."""
    path = root.path / folder / "file.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    found = [v for v in look(root) if not v.is_good]

    assert {(folder, 0): State.FILE_JSON} == bad(root)
    size = 0 if folder == "empty" else SIZE
    assert file_id_of(folder, size, BLOCK) == found[0].file.file_id


def test_bytes_are_gone(root):
    """Metadata whose bytes vanished: a file system was repaired, or someone removed them."""
    (root.path / "a/block_0003.bin").unlink()

    assert {("a", 3): State.MISSING} == bad(root)


def test_no_file(root):
    """A folder, a pipe or a symlink in place of the bytes is no block, and holds nobody up."""
    for number, make in enumerate(
        [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("block_0009.bin")]
    ):
        path = root.path / f"a/block_000{number}.bin"
        path.unlink()
        make(path)

    assert {("a", n): State.CORRUPT for n in range(3)} == bad(root)


def test_while_it_is_written(root, monkeypatch):
    """At no moment is a block that is being written taken for a bad one."""
    seen = []

    def watched(real):
        def wrapper(*args, **kwargs):
            seen.append(bad(root))
            result = real(*args, **kwargs)
            seen.append(bad(root))
            return result

        return wrapper

    for name in ("rename", "fsync", "pwrite", "unlink"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    keep_file(root, "new", size=30, block_size=10)

    assert len(seen) > 20
    assert [{}] * len(seen) == seen


def test_left_by_a_crash(root):
    """A writer that died between the two renames left no block: none was published or lost."""
    plan = fileplan.FilePlan(file_size=20, block_size=10)
    keep_block(root, "1" * 32, 0, b"0" * 10, name="new", plan=plan, start=0)
    folder = root.path / "new"
    (folder / "block_0000.bin").rename(folder / "block_0000.bin.7.part")
    assert {} == bad(root)
    root.close()
    again = DataFolder(root.path, min_free=0)
    again.open()
    again.close()

    assert {} == bad(root)
    assert not folder.exists()


def test_what_is_ours_is_passed_over(root):
    """Neither the quarantine nor the tables are verified."""
    for folder in ("quarantine", ".streamapp"):
        (root.path / folder).mkdir(exist_ok=True)
        (root.path / folder / "block_0000.bin").write_bytes(b"x")

    assert {} == bad(root)


def test_bad_sector(root, monkeypatch):
    """Bytes or metadata that the disk cannot give are bad; the others are judged all the same."""
    failing = {(root.path / "a/block_0003.bin").stat().st_ino: errno.EIO}
    failing[(root.path / "a/block_0005_metadata.json").stat().st_ino] = errno.EIO
    _fail_reads(monkeypatch, failing)

    assert {("a", 3): State.UNREADABLE, ("a", 5): State.METADATA} == bad(root)


@pytest.mark.parametrize("name", ["block_0003.bin", "block_0003_metadata.json", "file.json"])
@pytest.mark.parametrize("error", [errno.EACCES, errno.EMFILE, errno.ENOMEM])
def test_could_not_look(root, monkeypatch, name, error):
    """What could not be looked at gets no verdict: it is no reason to call a block lost."""
    _fail_reads(monkeypatch, {(root.path / "a" / name).stat().st_ino: error})
    with pytest.raises(StoreError, match="cannot read"):
        look(root)


def test_unreadable_folder(root, monkeypatch):
    """A folder that cannot be listed may hold anything: it is not passed over in silence."""
    real = os.scandir

    def scandir(path="."):
        if isinstance(path, int) and Path(f"/proc/self/fd/{path}").readlink().name == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StoreError, match="cannot read"):
        look(root)


def test_after(root):
    """A verification continues after the folder where it stopped."""
    assert ["b/c", "empty"] == list(
        dict.fromkeys("/".join(v.parts) for v in look(root, after=("a",)))
    )
    assert ["empty"] == [v.parts[0] for v in look(root, after=("b", "c"))]
    assert [] == look(root, after=("empty",))


def test_again(root):
    """A second look sees what is there now."""
    path = root.path / "a/block_0003.bin"
    flip(path, 1)
    found = next(v for v in look(root) if not v.is_good)
    assert found == verify.again(found, Pace())
    flip(path, 1)
    assert verify.again(found, Pace()).is_good
    path.with_name("block_0003_metadata.json").unlink()
    path.unlink()
    assert verify.again(found, Pace()) is None


class Clock:
    """Time that passes only when someone waits; an event that is never set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now

    def wait(self, seconds):
        """Let time pass."""
        self.now += seconds

    def is_set(self):
        """Nobody stops it."""
        return False


@pytest.mark.parametrize("rate", [1, 10 * KIB, 100 * MIB])
def test_rate(rate):
    """Over any time no more is read than the rate allows, but for the one piece under way."""
    clock = Clock()
    pace = Pace(rate, clock, clock=clock)
    spent = 0
    for size in [MIB, 1, 300 * KIB, 0] * 50:
        assert spent <= rate * clock.now + MIB + 1
        assert pace.spend(size)
        spent += size

    assert spent / rate == pytest.approx(clock.now, rel=0.02)


def test_rate_saves_nothing_up():
    """After a pause the rate is what it was: nothing is caught up on."""
    clock = Clock()
    pace = Pace(MIB, clock, clock=clock)
    pace.spend(MIB)
    clock.now += 1_000
    began = clock.now
    for _ in range(10):
        pace.spend(MIB)

    assert 9 == pytest.approx(clock.now - began)


def test_rate_of_a_reading(root):
    """A whole reading keeps the rate; opening a block counts as much as a seek."""
    clock = Clock()
    rate = 1 * MIB
    list(verify.blocks(root.path, Pace(rate, clock, clock=clock)))

    assert (20 * BLOCK + 20 * verify.SEEK_BYTES) / rate == pytest.approx(clock.now, rel=0.02)


def test_stop_ends_at_once(root):
    """A verification that waits for its rate ends when it is stopped, and reports no block."""
    stop = threading.Event()
    seen = []
    reading = threading.Thread(target=lambda: seen.extend(verify.blocks(root.path, Pace(1, stop))))
    reading.start()
    stop.set()
    reading.join(5)

    assert not reading.is_alive()
    assert all(v.is_good for v in seen)


def test_newer_resend_beside_missing(root):
    """A block that is missing and just being sent again is left to who writes it."""
    (root.path / "a/block_0003.bin").unlink()
    meta = BlockMeta(
        name="a", file_size=SIZE, blocks=10, block_size=BLOCK, start=3 * BLOCK, size=BLOCK,
        mtime_ns=1, source="laptop", sent_ns=2,
    )  # fmt: skip
    writer = root.begin(file_id_of("a", SIZE, BLOCK), 3, meta)
    assert {} == bad(root)
    writer.abort()
    assert {("a", 3): State.MISSING} == bad(root)


def test_names_of_others(root):
    """A block with a number that its file does not have, or with other digits, is no block."""
    good = root.path / "a/block_0003"
    for name in ("block_0099", "block_00003"):
        for suffix in (".bin", "_metadata.json"):
            source = good.with_name(good.name + suffix)
            good.with_name(name + suffix).write_bytes(source.read_bytes())

    assert {("a", 99): State.METADATA, ("a", 3): State.METADATA} == bad(root)


def test_most_votes_count(tmp_path):
    """Where the id proves nothing, the blocks outvote a ``file.json`` that lies well."""
    root = DataFolder(tmp_path / "data", min_free=0)
    root.open()
    plan = fileplan.FilePlan(file_size=30, block_size=10)
    for block in range(3):
        keep_block(root, "1" * 32, block, b"x" * 10, name="n", plan=plan, start=10 * block)
    path = root.path / "n/file.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"file_id": "2" * 32}))
    assert {("n", 0): State.FILE_JSON} == bad(root)
    root.mend(("n",))
    root.close()

    assert good == json.loads(path.read_text())
    assert {} == bad(root)


def _fail_reads(monkeypatch, failing):
    """Let reading the files with the inodes in *failing* fail with those errors."""
    real = {name: getattr(os, name) for name in ("read", "readv")}

    def wrap(name):
        def wrapper(fd, *args):
            error = failing.get(os.fstat(fd).st_ino)
            if error:
                raise OSError(error, os.strerror(error))
            return real[name](fd, *args)

        return wrapper

    for name in real:
        monkeypatch.setattr(os, name, wrap(name))
    assert dirfd.is_rot(OSError(errno.EIO, ""))
