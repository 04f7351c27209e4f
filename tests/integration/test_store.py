"""Blocks on disk: after any failure or crash, only complete blocks count as stored."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import sys
import threading
import types

from pathlib import Path

import msgspec
import pytest

from streamapp.errors import (
    BlockConflictError,
    BlockCorruptError,
    BlockError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from streamapp.protocol import filenames
from streamapp.store import BlockStore, dirfd, lock, metadata, placement, quarantine
from streamapp.store.data_folder import DataFolder
from streamapp.units import KIB, MIB
from tests.disk import Crash, Disk
from tests.frames import FILE_ID, meta_of
from tests.integration.blocks import block_file


OTHER_ID = "f" * 32
SAME_START_ID = FILE_ID[:8] + "0" * 24
DATA = b"0123456789" * 3
OURS = {".lock", ".folder.json"}
TRIES = 8


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk that fails at the calls that a test chooses."""
    return Disk(tmp_path, monkeypatch)


def stored_in(root):
    """Return the metadata of a block of `DATA` in the folder *root*."""
    return msgspec.structs.replace(block_file(DATA), folder=root.identity)


def keep(root, data=DATA, *, file_id=FILE_ID, block=0, meta=None, tries=1):  # noqa: PLR0913
    """Persist a block as a worker does, in two pieces; each step may be tried again."""

    def tried(step):
        for left in reversed(range(tries)):
            try:
                return step()
            except StoreError:
                if not left:
                    raise
        raise AssertionError

    meta = meta or meta_of(len(data))
    writer = tried(lambda: root.begin(file_id, block, meta))
    try:
        half = len(data) // 2
        tried(lambda: writer.write(data[:half], offset=0))
        tried(lambda: writer.write(data[half:], offset=half))
        tried(lambda: writer.commit(block_file(data, file_id=file_id, block=block, meta=meta)))
    finally:
        writer.abort()


def files_below(path):
    """Return the relative paths of all files below *path*, except the data folder's own."""
    found = (p.relative_to(path) for p in path.rglob("*") if not p.is_dir())
    return sorted(str(p) for p in found if p.name not in OURS and p.parts[0] != "quarantine")


def is_whole(read, path):
    """Return whether the ``.bin`` at *path* is what the metadata beside it declare."""
    raw = read(path.removesuffix(".bin") + "_metadata.json")
    return raw is not None and json.loads(raw)["sha256"] == (hashlib.sha256(read(path)).hexdigest())


def assert_whole(top):
    """Assert that every ``.bin`` is complete and has its metadata."""

    def read(path):
        return (top / path).read_bytes() if (top / path).exists() else None

    bins = [p for p in files_below(top) if p.endswith(".bin")]
    assert bins == [p for p in bins if is_whole(read, p)]


def open_files():
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


# --- what is done, and in which order


def test_layout(root):
    """A path becomes folders; the metadata of block and file are beside the bytes."""
    keep(root)

    folder = root.path / "a" / "b.csv"
    assert ["block_0000.bin", "block_0000_metadata.json", "file.json"] == files_below(folder)
    assert DATA == (folder / "block_0000.bin").read_bytes()
    assert FILE_ID == json.loads((folder / "file.json").read_text())["file_id"]
    assert stored_in(root) == root.stored(FILE_ID, 0)


def test_many_blocks_have_more_digits(root):
    """The number has as many digits as the last block needs, so that names sort as blocks do."""
    meta = meta_of(1, file_size=20_000, blocks=20_000, block_size=1, start=7)
    keep(root, b"x", block=7, meta=meta)

    assert (root.path / "a/b.csv/block_00007.bin").exists()
    assert root.stored(FILE_ID, 7)


def test_order(disk, open_root):
    """Bytes are fsynced before the file is renamed, and the folder is fsynced after that."""
    keep(open_root())

    done = [call for call in disk.calls if call[0] != "unlink"]
    part = next(name for kind, name in done if kind == "create" and name.startswith("block"))
    assert [
        ("create", part),
        ("write", part),
        ("write", part),
        ("fsync", part),
        ("create", "block_0000_metadata.json.part"),
        ("write", "block_0000_metadata.json.part"),
        ("fsync", "block_0000_metadata.json.part"),
        ("rename", "block_0000_metadata.json"),
        ("rename", "block_0000.bin"),
        ("fsync", "b.csv"),
    ] == done[done.index(("create", part)) :]


def test_metadata_are_there_before_the_bytes(root, monkeypatch):
    """There is never a ``.bin`` without its metadata."""
    seen = []
    rename = os.rename

    def watched(src, dst, **kwargs):
        rename(src, dst, **kwargs)
        assert_whole(root.path)
        seen.append(dst)

    monkeypatch.setattr(os, "rename", watched)
    keep(root)

    assert ["file.json", "block_0000_metadata.json", "block_0000.bin"] == seen


# --- wherever it fails or dies


def test_every_crash(tmp_path, disk):
    """After a crash or power loss at any point, every block that counts as stored is there."""
    for number in itertools.count(1):
        path = tmp_path / str(number) / "data"
        acked = False
        disk.fail_at(number, Crash)
        try:
            dying = DataFolder(path, min_free=0)
            dying.open()
            keep(dying)
            acked = True
        except Crash:
            pass
        is_done = not disk.is_dead
        disk.heal()
        dying.close()
        lost_power = disk.after_power_loss()
        again = DataFolder(path, min_free=0)
        again.open()
        try:
            assert_whole(path)
            stored = again.stored(FILE_ID, 0)
            assert not acked or stored
            assert [] == [name for name in files_below(path) if name.endswith(".part")]
            for was_told, survived in [(acked, lost_power), (stored, disk.after_power_loss())]:
                name = f"{number}/data/a/b.csv/block_0000.bin"
                assert not was_told or is_whole(survived.get, name), number
                assert not was_told or f"{number}/data/a/b.csv/file.json" in survived
            keep(again)
            assert [DATA] == [p.read_bytes() for p in path.rglob("*.bin")]
        finally:
            again.close()
        if is_done:
            break

    assert number > 15


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("on", [1, 2])
def test_every_failure(tmp_path, disk, error, on):
    """If any call fails, once or for a while, another try persists the block.

    After one failure it is durable too. If undoing a rename fails as well, the disk is beyond
    repair, and the next start notices that.
    """
    for number in itertools.count(1):
        path = tmp_path / str(number) / "data"
        root = DataFolder(path, min_free=0)
        root.open()
        before = open_files()
        disk.fail_at(number, error, on=True)
        failing = disk.fault
        failed = 0

        def fault(*call, failing=failing):
            nonlocal failed
            refused = failing(*call) if failed < on else None
            failed += refused is not None
            return refused

        disk.fault = fault
        keep(root, tries=TRIES)
        disk.heal()
        assert root.stored(FILE_ID, 0)
        assert before == open_files()
        assert 0 == len(root.free_space)
        assert [] == [name for name in files_below(path) if name.endswith(".part")]
        assert_whole(path)
        survived = disk.after_power_loss()
        if on == 1:
            assert is_whole(survived.get, f"{number}/data/a/b.csv/block_0000.bin")
            assert f"{number}/data/a/b.csv/file.json" in survived
        root.close()
        if not failed:
            break

    assert number > 12


def test_fsync_that_fails_on_and_on(disk, open_root):
    """While every fsync fails, nothing is renamed; afterwards all bytes are verified anew."""
    root = open_root()
    writer = root.begin(FILE_ID, 0, meta_of(len(DATA)))
    writer.write(DATA, offset=0)
    for kinds in [("fsync",), ("rename",), ("write", "create")]:
        disk.fail_at(1, kinds=kinds, on=True)
        for _ in range(3):
            with pytest.raises(StoreError):
                writer.commit(block_file(DATA))
            assert root.stored(FILE_ID, 0) is None
            assert [] == list(root.path.rglob("*.bin"))
        disk.fail_at(1, kinds=("fsync",))
    disk.heal()
    writer.commit(block_file(DATA))

    assert root.stored(FILE_ID, 0)
    assert is_whole(disk.after_power_loss().get, "data/a/b.csv/block_0000.bin")


def test_folder_fsync_that_fails(disk, open_root):
    """A rename that may not be durable is undone, so that the block does not count as stored."""
    root = open_root()
    writer = root.begin(FILE_ID, 0, meta_of(len(DATA)))
    writer.write(DATA, offset=0)
    disk.fault = lambda _number, kind, name: (
        OSError(errno.EIO, "") if (kind, name) == ("fsync", "b.csv") else None
    )
    with pytest.raises(StoreError):
        writer.commit(block_file(DATA))
    assert root.stored(FILE_ID, 0) is None

    disk.heal()
    writer.commit(block_file(DATA))
    assert root.stored(FILE_ID, 0)


def test_failed_fsync_is_not_tried_again(disk, open_root):
    """After a failed fsync the bytes go to a new file: the kernel may have dropped them."""
    root = open_root()
    writer = root.begin(FILE_ID, 0, meta_of(len(DATA)))
    writer.write(DATA, offset=0)
    disk.calls.clear()
    disk.fail_at(1, kinds=("fsync",))
    with pytest.raises(StoreError):
        writer.commit(block_file(DATA))
    disk.heal()
    writer.commit(block_file(DATA))

    synced = [name for kind, name in disk.calls if kind == "fsync" and "block_0000.bin" in name]
    assert 2 == len(synced) == len(set(synced))
    assert DATA == (root.path / "a/b.csv/block_0000.bin").read_bytes()


def test_lost_bytes_are_noticed(disk, open_root):
    """When a failed fsync lost bytes, the copy does not have the declared SHA-256."""
    root = open_root()
    writer = root.begin(FILE_ID, 0, meta_of(len(DATA)))
    writer.write(DATA, offset=0)
    disk.fail_at(1, kinds=("fsync",))
    with pytest.raises(StoreError):
        writer.commit(block_file(DATA))
    disk.heal()
    next(root.path.rglob("*.part")).write_bytes(DATA[:-1] + b"?")
    with pytest.raises(BlockCorruptError, match="lost bytes"):
        writer.commit(block_file(DATA))
    writer.abort()

    assert [] == files_below(root.path)


def test_short_writes(root, monkeypatch):
    """The system may write less than it was given: the rest is written after it."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
    keep(root)

    assert DATA == (root.path / "a/b.csv/block_0000.bin").read_bytes()
    assert root.stored(FILE_ID, 0)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full(disk, open_root, error):
    """A full volume, a quota and a size limit raise another error than a failing disk."""
    root = open_root()
    writer = root.begin(FILE_ID, 0, meta_of(len(DATA)))
    disk.fail_at(1, error, kinds=("write",))

    with pytest.raises(StoreFullError):
        writer.write(DATA, offset=0)
    writer.write(DATA, offset=0)
    writer.commit(block_file(DATA))
    assert root.stored(FILE_ID, 0)


# --- room


def test_room_is_reserved(root, monkeypatch):
    """Open blocks have reserved space, less what they have written."""
    free = [1000 * KIB]
    monkeypatch.setattr(dirfd, "free_bytes", lambda _fd: free[0])
    root.free_space.min_free = 100 * KIB
    first = root.begin(FILE_ID, 0, meta_of(600 * KIB))
    with pytest.raises(StoreFullError, match=r"disk full.* needs 300.0 KiB and 100.0 KiB"):
        root.begin(OTHER_ID, 0, meta_of(300 * KIB))

    first.write(bytes(400 * KIB), offset=0)
    free[0] -= 400 * KIB
    second = root.begin(OTHER_ID, 0, meta_of(260 * KIB))
    with pytest.raises(StoreFullError, match=r"disk full.* needs 10.0 KiB"):
        root.begin("e" * 32, 0, meta_of(10 * KIB))

    first.abort()
    second.abort()
    assert 500 * KIB == root.free
    assert 0 == len(root.free_space)


def test_declared_size_reserves_nothing(root, monkeypatch):
    """Records that declare all free space do not make other blocks wait."""
    free = 64 * MIB
    monkeypatch.setattr(dirfd, "free_bytes", lambda _fd: free)
    root.free_space.min_free = 8 * MIB
    evil = meta_of(free, name="evil", source="evil")
    open_ = [root.begin(f"{number:032x}", 0, evil) for number in range(20)]
    for writer in open_:
        writer.write(b"x", offset=0)
    for number in range(3):
        keep(root, bytes(8 * MIB), file_id=f"f{number:031x}", meta=meta_of(8 * MIB, name="good"))

    assert 3 == len(list(root.path.rglob("*.bin")))


def test_min_free_is_kept_while_a_block_is_written(root, monkeypatch):
    """If other programs use the space while a block is written, ``min_free`` stays free."""
    free = [10 * MIB]
    monkeypatch.setattr(dirfd, "free_bytes", lambda _fd: free[0])
    root.free_space.min_free = MIB
    writer = root.begin(FILE_ID, 0, meta_of(2 * MIB))
    writer.write(bytes(MIB), offset=0)
    free[0] = MIB + 100 * KIB
    with pytest.raises(StoreFullError, match="disk full"):
        writer.write(bytes(MIB), offset=MIB)

    assert [MIB] == [p.stat().st_size for p in root.path.rglob("*.part")]


def test_inodes_are_room(root, monkeypatch):
    """A volume without free inodes is full; a reserve of inodes stays free."""
    spare = [63]
    monkeypatch.setattr(dirfd, "spare_files", lambda _fd: spare[0])
    with pytest.raises(StoreFullError, match=r"disk full: 63 more files .* no inodes left"):
        root.begin(FILE_ID, 0, meta_of(5))
    spare[0] = 64
    keep(root)


@pytest.mark.parametrize(
    ("files", "favail", "spare"),
    [(0, 0, sys.maxsize), (1_000_000, 5_000, 3_976), (2_000, 150, 50), (2_000, 50, -50)],
)
def test_reserve_of_inodes(monkeypatch, files, favail, spare):
    """On a small volume a twentieth of the inodes stays free; some volumes have no limit."""
    volume = types.SimpleNamespace(f_files=files, f_favail=favail)
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: volume)

    assert spare == dirfd.spare_files(0)


def test_room_is_reserved_once(root, monkeypatch):
    """Two threads that begin at once do not both get the last space."""
    monkeypatch.setattr(dirfd, "free_bytes", lambda _fd: 100 * KIB)
    barrier = threading.Barrier(4)
    begun, refused = [], []

    def begin(number):
        barrier.wait()
        try:
            begun.append(root.begin(f"{number}" * 32, 0, meta_of(60 * KIB, name=str(number))))
        except StoreFullError as error:
            refused.append(error)

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (1, 3) == (len(begun), len(refused))


def test_empty_block_needs_no_room_but_the_reserve(root):
    """An empty file has one empty block, which needs no space beyond the reserve."""
    keep(root, b"", meta=meta_of(0))
    assert 0 == root.stored(FILE_ID, 0).size

    root.free_space.min_free = 1 << 60
    with pytest.raises(StoreFullError):
        root.begin(OTHER_ID, 0, meta_of(0))


# --- one owner, nothing left


def test_second_opener(root):
    """A data folder has one worker; the error of a second one names the first."""
    other = DataFolder(root.path, min_free=0)
    with pytest.raises(StoreBusyError, match=f"pid {os.getpid()}, since"):
        other.open()

    root.close()
    other.open()
    other.close()


def test_second_opener_by_another_name(root, tmp_path):
    """The lock is on the folder, whichever path leads to it."""
    (tmp_path / "link").symlink_to(root.path)
    with pytest.raises(StoreBusyError):
        DataFolder(tmp_path / "link", min_free=0).open()


def test_lock_that_cannot_be_had(tmp_path, monkeypatch):
    """If the file system has no locks, the error says so."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.raises(StoreError, match="No locks available") as caught:
        DataFolder(tmp_path / "data", min_free=0).open()

    assert not isinstance(caught.value, StoreBusyError)


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (lambda victim, at: at.hardlink_to(victim), "a file with 2 names"),
        (lambda victim, at: at.symlink_to(victim), "no regular file"),
        (lambda victim, at: at.symlink_to(victim.with_name("nothing")), "no regular file"),
        (lambda _, at: os.mkfifo(at), "no regular file"),
        (lambda _, at: at.mkdir(), "no regular file"),
    ],
    ids=["hard link", "symlink", "dangling", "pipe", "folder"],
)
def test_lock_that_is_another_file(tmp_path, plant, what):
    """Another kind of file in the lock's place is refused, and never written to."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "data").mkdir()
    plant(victim, tmp_path / "data" / ".lock")
    before = open_files()
    with pytest.raises(StoreError, match=f"lock is {what}, expected .*: remove it"):
        DataFolder(tmp_path / "data", min_free=0).open()

    assert b"precious" == victim.read_bytes()
    assert [tmp_path / "data", victim] == sorted(tmp_path.iterdir())
    assert before == open_files()


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    """A umask, which the permissions do not depend on."""
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.mark.parametrize(("mode", "folder_mode"), [(0o640, 0o750), (0o600, 0o700), (0o664, 0o775)])
def test_modes(tmp_path, umask, mode, folder_mode):  # noqa: ARG001 - what must not matter
    """Everything that is stored has the configured permissions: blocks, metadata, folders."""
    store = BlockStore([tmp_path / "above" / "data"], min_free=0, file_mode=mode)
    store.open()
    keep(store)
    store.set_aside("t-0-1", {}, b"x")
    store.roots[0].quarantine(("a", "b.csv"), "block_0000", "rotten", {})
    keep(store)
    store.roots[0].mend(("a", "b.csv"))
    store.close()

    found = {p: p.stat().st_mode & 0o7777 for p in (tmp_path / "above" / "data").rglob("*")}
    found[tmp_path / "above" / "data"] = (tmp_path / "above" / "data").stat().st_mode & 0o7777
    assert {mode} == {m for p, m in found.items() if p.is_file()}
    assert {folder_mode} == {m for p, m in found.items() if p.is_dir()}
    assert len(found) > 10


def test_mode_of_a_folder_that_is_there(tmp_path):
    """A data folder that everybody could read is closed to others; extra bits stay."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o2755)
    root = DataFolder(tmp_path / "data", min_free=0)
    root.open()
    keep(root)
    root.close()

    assert 0o2750 == (tmp_path / "data").stat().st_mode & 0o7777
    assert 0o640 == (tmp_path / "data/a/b.csv/block_0000.bin").stat().st_mode & 0o7777


def test_root_that_cannot_be_opened_holds_nothing(disk, tmp_path):
    """A failed open leaves neither a lock nor a descriptor."""
    before = open_files()
    disk.fault = lambda _number, kind, _name: OSError(errno.EIO, "") if kind == "fsync" else None
    root = DataFolder(tmp_path / "data", min_free=0)
    with pytest.raises(StoreError):
        root.open()

    assert before == open_files()


def test_part_files_go(root, open_root):
    """Files that a dead worker left half written are removed; users' files of such names stay."""
    keep(root)
    keep(root, DATA, file_id=OTHER_ID, meta=meta_of(len(DATA), name="x.part/y.part"))
    root.set_aside("t-0-1", {}, b"")
    for folder in ("", "a", "a/b.csv", "quarantine"):
        (root.path / folder / "left.part").write_bytes(b"half")
    root.close()
    before = [p for p in files_below(root.path) if not p.endswith("left.part")]
    again = open_root()

    assert before == files_below(root.path)
    assert [] == list(root.path.rglob("left.part"))
    assert again.stored(OTHER_ID, 0)


def test_closing_throws_away_what_is_open(root):
    """Closing the folder removes the blocks that are not persisted."""
    writer = root.begin(FILE_ID, 0, meta_of(5))
    writer.write(b"12345", offset=0)
    root.close()
    assert [] == list(root.path.rglob("*.part"))

    for step in (
        lambda: writer.write(b"12345", offset=0),
        lambda: root.begin(FILE_ID, 0, meta_of(5)),
        lambda: root.stored("0" * 32, 0) or root.free,
    ):
        with pytest.raises(StoreError):
            step()


# --- what someone planted


@pytest.fixture
def outside(tmp_path):
    """A folder outside the data folder, in which nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"s" * len(DATA))
    yield folder
    assert [("secret", b"s" * len(DATA))] == [(p.name, p.read_bytes()) for p in folder.iterdir()]


@pytest.mark.parametrize("place", ["a", "a/b.csv"])
@pytest.mark.parametrize("target", ["outside", "outside/secret", "nowhere"])
def test_symlink_for_a_folder(root, outside, tmp_path, place, target):
    """A symlink in place of a file's folder is not followed: the file gets another folder."""
    assert outside.is_dir()
    link = root.path / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / target)
    keep(root)

    assert root.stored(FILE_ID, 0)
    assert link.is_symlink()


@pytest.mark.parametrize("name", ["file.json", "block_0000.bin", "block_0000_metadata.json"])
@pytest.mark.parametrize("is_open", [True, False])
def test_symlink_for_a_file(open_root, outside, name, is_open):
    """A symlink where a file should be is replaced, and never read or written through."""
    root = open_root()
    folder = root.path / "a/b.csv"
    folder.mkdir(parents=True)
    (folder / name).symlink_to(outside / "secret")
    if not is_open:
        root.close()
        root = open_root()
    keep(root)

    assert DATA == (folder / "block_0000.bin").read_bytes()
    assert [] == [p for p in root.path.rglob("*") if p.is_symlink()]
    assert root.stored(FILE_ID, 0)


def test_symlink_for_the_bytes_of_a_stored_block(root, outside):
    """A symlink does not count as a block, even if its size fits."""
    keep(root)
    bytes_ = root.path / "a/b.csv/block_0000.bin"
    bytes_.unlink()
    target = str(outside / "secret")
    bytes_.symlink_to(target.rjust(len(DATA), "/")[-len(DATA) :].rjust(len(DATA), "/"))
    assert len(DATA) == bytes_.lstat().st_size

    assert root.stored(FILE_ID, 0) is None


def test_symlink_for_a_part(root, outside, monkeypatch):
    """A ``.part`` that somebody else made is not written to; the next try has another name."""
    monkeypatch.setattr("streamapp.store.writer._part_numbers", itertools.count())
    folder = root.path / "a/b.csv"
    folder.mkdir(parents=True)
    (folder / "block_0000.bin.0.part").symlink_to(outside / "secret")
    (folder / "file.json.part").symlink_to(outside / "secret")
    keep(root, tries=2)

    assert root.stored(FILE_ID, 0)


def test_pipe_for_a_file(root):
    """A pipe in place of metadata blocks nothing."""
    folder = root.path / "a/b.csv"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "file.json")
    os.mkfifo(folder / "block_0000_metadata.json")
    keep(root)

    assert root.stored(FILE_ID, 0)


@pytest.mark.parametrize("link", ["quarantine", ".probe"])
def test_symlink_for_what_is_ours(root, outside, link):
    """The data folder's own files are not written through a symlink either."""
    (root.path / link).symlink_to(outside / ("" if link == "quarantine" else "secret"))
    with contextlib.suppress(StoreError):
        root.set_aside("t-0-1", {}, b"x")
    with contextlib.suppress(StoreError):
        root.probe()


# --- names that collide


@pytest.mark.parametrize(
    "taken",
    [
        ["same", "same"],
        ["a", "a/b", "a/b/c"],
        ["a/b/c", "a/b", "a"],
        ["quarantine", ".streamapp", ".lock", ".probe", ".probe.part", "Quarantine"],
        ["quarantine/x", ".streamapp/x", ".lock/x", ".probe/x", ".probe.part/x"],
        ["file.json", "block_0000.bin", "block_0000_metadata.json", "file.json.part"],
        ["a", "a/file.json", "a/block_0000.bin", "a/block_0000_metadata.json", "a/x.part"],
        ["a", "a/file.json/b", "a/block_0000.bin/b", "a/file.json.part", "a/block_0000.bin.0.part"],
        ["x", "x", f"x~{OTHER_ID[:8]}", "x"],
        [f"x~{OTHER_ID[:8]}", "x", "x"],
        ["n" * 255, "n" * 256, "n" * 255],
        ["\u00e9", "e\u0301"],
    ],
)
def test_names_that_collide(root, open_root, taken):
    """Files with any names have folders of their own, and all are found again."""
    ids = [f"{number:032x}" for number in range(len(taken))]
    ids = [OTHER_ID if n == len(ids) - 1 else file_id for n, file_id in enumerate(ids)]
    for name, file_id in zip(taken, ids, strict=True):
        data = (name + file_id).encode()
        keep(root, data, file_id=file_id, meta=meta_of(len(data), name=name))
    assert root.probe() is None
    root.set_aside("t-0-1", {}, b"")
    root.close()
    again = open_root()
    assert again.probe() is None

    for name, file_id in zip(taken, ids, strict=True):
        digest = hashlib.sha256((name + file_id).encode()).hexdigest()
        assert digest == again.stored(file_id, 0).sha256
    assert_whole(root.path)
    found = [p for p in root.path.rglob("block*.bin") if p.is_file()]
    assert len(taken) == len({p.parent for p in found})


def test_ids_that_begin_alike(root):
    """If two ids have the same first eight digits, each file still gets its own folder."""
    ids = [OTHER_ID, FILE_ID, SAME_START_ID, FILE_ID[:8] + "1" * 24]
    for file_id in ids:
        keep(root, file_id.encode(), file_id=file_id, meta=meta_of(32, name="x"))

    assert len(ids) == len(list(root.path.rglob("*.bin")))
    assert all(hashlib.sha256(i.encode()).hexdigest() == root.stored(i, 0).sha256 for i in ids)


def test_many_ids_that_begin_alike(open_root, monkeypatch):
    """With any number of such ids, the next file gets a folder."""
    root = open_root()
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    ids = [f"{FILE_ID[:16]}{number:016x}" for number in range(1_200)]
    for file_id in ids:
        root.begin(file_id, 0, meta_of(len(DATA), name="x")).abort()
    for file_id in (*ids[-3:], FILE_ID):
        keep(root, file_id=file_id, meta=meta_of(len(DATA), name="x"))
    root.close()
    again = open_root()

    assert all(again.stored(file_id, 0) for file_id in (*ids[-3:], FILE_ID))


@pytest.fixture
def taken(root):
    """Files that occupy every name that a file ``x`` may get do not stop it."""
    for number, name in enumerate(["x", *filenames.with_suffixes("x", FILE_ID)]):
        keep(root, file_id=f"{number:032x}", meta=meta_of(len(DATA), name=name))


def test_names_that_are_taken_on_purpose(root, open_root, taken):  # noqa: ARG001 - the names
    """If every name that follows from a file's id is taken, the file still gets a folder."""
    keep(root, meta=meta_of(len(DATA), name="x"))
    root.close()

    assert hashlib.sha256(DATA).hexdigest() == open_root().stored(FILE_ID, 0).sha256


def test_no_folder_is_left(root, taken, monkeypatch):  # noqa: ARG001 - the names
    """If every possible folder name is taken, the block is refused and does not wait."""
    monkeypatch.setattr(placement, "_made_up", lambda part: filenames.cut(part, "~0"))
    keep(root, file_id=OTHER_ID, meta=meta_of(len(DATA), name="x~0"))
    with pytest.raises(BlockError, match="no folder"):
        root.begin(FILE_ID, 0, meta_of(5, name="x"))


def test_folders_of_older_versions(root, open_root):
    """A folder of an older version is found by its ``file.json``."""
    meta = meta_of(len(DATA), name="x")
    keep(root, meta=meta)
    (root.path / "x").rename(root.path / f"x~{FILE_ID[:8]}~7")
    root.close()
    again = open_root()
    assert again.stored(FILE_ID, 0)

    keep(again, meta=meta)
    assert [f"x~{FILE_ID[:8]}~7"] == [p.parent.name for p in again.path.rglob("*.bin")]


def test_hostile_name(root):
    """An impossible name is refused, and nothing is created for it."""
    before = open_files()
    for name in ("../x", "/etc/passwd", "a/../../b", "", "a//b", "a\0b", "x/" * 200 + "x"):
        with pytest.raises(BlockError):
            root.begin(FILE_ID, 0, meta_of(1, name=name))

    assert OURS == {p.name for p in root.path.iterdir()}
    assert before == open_files()


# --- folders of what is not kept


def folders_below(path):
    """Return all folders below *path*, as relative paths."""
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_dir())


def test_folders_of_a_rejected_block(disk, open_root):
    """Folders that were created for a block are removed with it, durably."""
    root = open_root()
    writer = root.begin(FILE_ID, 0, meta_of(5, name="a/b/c/d"))
    keep(root, file_id=OTHER_ID, meta=meta_of(len(DATA), name="a/b/x"))
    writer.write(b"12345", offset=0)
    assert "a/b/c/d" in folders_below(root.path)
    writer.abort()

    assert ["a", "a/b", "a/b/x"] == folders_below(root.path)
    assert {OTHER_ID: ("a", "b", "x")} == root._folders
    assert [] == [name for name in disk.after_power_loss() if "a/b/c" in name]
    keep(root, meta=meta_of(len(DATA), name="a/b/c/d"))
    assert root.stored(FILE_ID, 0)


def test_folders_stay_while_a_block_is_in_them(root):
    """A folder stays while another block of the file, persisted or open, is in it."""
    parts = {"file_size": 20, "blocks": 2, "block_size": 10}
    first = root.begin(FILE_ID, 0, meta_of(10, **parts))
    second = root.begin(FILE_ID, 1, meta_of(10, start=10, **parts))
    first.abort()
    assert ["a", "a/b.csv"] == folders_below(root.path)
    assert (root.path / "a/b.csv/file.json").exists()

    second.abort()
    assert [] == folders_below(root.path)


def test_flood_of_names(root, monkeypatch):
    """If any number of files are begun and rejected, nothing of them remains."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    before = open_files()
    for number in range(100):
        name = "/".join([f"{number}", *["d"] * (filenames.MAX_COMPONENTS - 1)])
        root.begin(f"{number:032x}", 0, meta_of(5, name=name)).abort()

    assert [] == folders_below(root.path)
    assert {} == root._folders
    assert before == open_files()


@pytest.mark.parametrize("kind", ["mkdir", "create", "fsync"])
def test_folders_of_a_block_that_cannot_begin(disk, open_root, kind):
    """Folders for a block that could not begin are removed as well."""
    for number in range(1, 8):
        root = open_root()
        disk.fail_at(number, errno.ENOSPC, kinds=(kind,))
        with contextlib.suppress(StoreError):
            root.begin(FILE_ID, 0, meta_of(5, name="a/b/c")).abort()
        disk.heal()
        assert [] == folders_below(root.path), number
        root.close()


def test_folders_of_what_a_dead_worker_left(root, open_root):
    """A start removes the folders of half-written blocks."""
    keep(root, file_id=OTHER_ID, meta=meta_of(len(DATA), name="a/x"))
    for name in ("a/half/block_0000.bin.0.part", "a/b/c/file.json.part"):
        path = root.path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
    (root.path / "a/half/file.json").write_bytes(
        metadata.file_of(FILE_ID, meta_of(5, name="a/half")).encode()
    )
    (root.path / "a/empty").mkdir()
    root.close()
    again = open_root()

    assert ["a", "a/empty", "a/x"] == folders_below(root.path)  # what nobody began is nobody's
    assert [OTHER_ID] == list(again._folders)


def test_folders_made_and_removed_at_once(root):
    """A block that begins while another one of its folder is aborted has its folder."""
    errors = []
    barrier = threading.Barrier(3)

    def run(number):
        meta = meta_of(len(DATA), name=f"a/b/{number}")
        try:
            barrier.wait()
            for _ in range(30):
                root.begin(f"{number:032x}", 0, meta).abort()
            keep(root, file_id=f"{number:032x}", meta=meta)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == errors
    assert 3 == len(list(root.path.rglob("*.bin")))
    assert all(root.stored(f"{number:032x}", 0) for number in range(3))


# --- what is there already


def test_same_block_again(root):
    """A block that is already persisted does not change."""
    keep(root)
    before = (root.path / "a/b.csv/block_0000.bin").stat().st_ino
    keep(root)

    assert before == (root.path / "a/b.csv/block_0000.bin").stat().st_ino
    assert [] == list(root.path.rglob("*.part"))


def test_conflict(root):
    """Other content for the same block never replaces the persisted block."""
    keep(root)
    with pytest.raises(BlockConflictError, match="is stored already"):
        keep(root, DATA[::-1])

    assert DATA == (root.path / "a/b.csv/block_0000.bin").read_bytes()
    assert stored_in(root) == root.stored(FILE_ID, 0)
    assert [] == list(root.path.rglob("*.part"))


@pytest.mark.parametrize(
    "changes",
    [
        {"file_size": 31, "blocks": 2, "block_size": 30},
        {"file_size": 300_000, "blocks": 10_001, "block_size": 30},
    ],
)
def test_another_file_under_the_same_id(root, changes):
    """Blocks of a file with the same id and another block size are refused."""
    keep(root)
    with pytest.raises(BlockConflictError, match="another file"):
        root.begin(FILE_ID, 0, meta_of(30, **changes))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b"{}" + b" " * 70_000])
def test_damaged_metadata(root, damage):
    """A block without valid metadata is not stored; when it is sent again, it is."""
    keep(root)
    (root.path / "a/b.csv/block_0000_metadata.json").write_bytes(damage)
    assert root.stored(FILE_ID, 0) is None

    keep(root)
    assert stored_in(root) == root.stored(FILE_ID, 0)


@pytest.mark.parametrize("size", [0, len(DATA) - 1, len(DATA) + 1])
def test_damaged_bytes(root, size):
    """A file of another size is no stored block; when the block is sent again, it is."""
    keep(root)
    os.truncate(root.path / "a/b.csv/block_0000.bin", size)
    assert root.stored(FILE_ID, 0) is None

    keep(root)
    assert stored_in(root) == root.stored(FILE_ID, 0)
    assert_whole(root.path)


def test_crash_while_damage_is_mended(tmp_path, disk):
    """Old bytes are never beside the metadata of new ones."""
    for number in itertools.count(1):
        path = tmp_path / str(number)
        root = DataFolder(path, min_free=0)
        root.open()
        keep(root, DATA[::-1])
        (path / "a/b.csv/block_0000_metadata.json").unlink()
        disk.fail_at(number, Crash)
        with contextlib.suppress(Crash):
            keep(root)
        is_done = not disk.is_dead
        disk.heal()
        root.close()
        again = DataFolder(path, min_free=0)
        again.open()
        assert again.stored(FILE_ID, 0) is None or is_done or number > 5
        if again.stored(FILE_ID, 0):
            assert_whole(path)
        again.close()
        if is_done:
            break

    assert number > 5


@pytest.mark.parametrize("damage", [None, b"", b"{", b"[]", b"{}"])
@pytest.mark.parametrize("is_open", [True, False])
def test_damaged_file_json(open_root, damage, is_open):
    """With a damaged ``file.json`` the block is sent again and stored."""
    root = open_root()
    meta = meta_of(10, file_size=20, blocks=2, block_size=10)
    keep(root, b"0123456789", meta=meta)
    path = root.path / "a/b.csv/file.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    if not is_open:
        root.close()
        root = open_root()
    keep(root, b"0123456789", meta=meta)
    keep(root, b"abcdefghij", block=1, meta=meta_of(10, start=10, file_size=20, blocks=2))
    assert root.stored(FILE_ID, 0)
    assert root.stored(FILE_ID, 1)
    root.close()
    again = open_root()
    assert again.stored(FILE_ID, 0)
    assert again.stored(FILE_ID, 1)


def test_metadata_of_another_block(root):
    """A block whose metadata are of another block is not stored."""
    keep(root)
    path = root.path / "a/b.csv/block_0000_metadata.json"
    good = json.loads(path.read_text())
    for change in ({"file_id": OTHER_ID}, {"block": 1}):
        path.write_text(json.dumps(good | change))
        assert root.stored(FILE_ID, 0) is None


def test_folder_that_is_gone(root):
    """A file whose folder was removed gets a new one."""
    keep(root)
    for path in sorted((root.path / "a").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root.path / "a").rmdir()
    assert root.stored(FILE_ID, 0) is None

    keep(root)
    assert root.stored(FILE_ID, 0)


def test_folder_that_holds_another_file(root):
    """If the folders of two files were swapped, a block goes to its own file's folder."""
    other = msgspec.structs.replace(meta_of(len(DATA)), name="other")
    keep(root)
    keep(root, file_id=OTHER_ID, meta=other)
    here, there = root.path / "a/b.csv", root.path / "other"
    here.rename(root.path / "aside")
    there.rename(here)
    (root.path / "aside").rename(there)
    assert root.stored(FILE_ID, 0) is None

    keep(root)

    assert root.stored(FILE_ID, 0)
    assert OTHER_ID == json.loads((here / "file.json").read_text())["file_id"]
    assert_whole(root.path)


@pytest.mark.parametrize("place", ["a", "a/b.csv"])
def test_symlink_for_a_folder_that_was_there(root, outside, place):
    """A symlink that replaced a file's folder is not followed: the block is stored anew."""
    keep(root)
    (root.path / place).rename(root.path / "aside")
    (root.path / place).symlink_to(outside)
    assert root.stored(FILE_ID, 0) is None

    keep(root)

    assert root.stored(FILE_ID, 0)
    assert (root.path / place).is_symlink()


def test_folder_that_is_moved_while_a_block_is_written(root, tmp_path):
    """A block whose folder was moved while it was written is not persisted."""
    meta = meta_of(len(DATA))
    writer = root.begin(FILE_ID, 0, meta)
    writer.write(DATA, offset=0)
    (root.path / "a").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="moved"):
        writer.commit(block_file(DATA))
    writer.abort()

    keep(root)
    assert root.stored(FILE_ID, 0)


def test_unknown(root):
    """A block that was never persisted is not stored."""
    keep(root)

    assert root.stored(FILE_ID, 1) is None
    assert root.stored(OTHER_ID, 0) is None


def test_unreadable_folder_is_held(root, monkeypatch):
    """A folder that cannot be read raises an error: the block may be there."""
    keep(root)

    def refuse(*_, **__):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(dirfd, "read_file", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        root.stored(FILE_ID, 0)


# --- threads


def test_abort_while_writing(root):
    """A block may be aborted by another thread at any moment."""
    before = open_files()
    for _ in range(20):
        writer = root.begin(FILE_ID, 0, meta_of(1 << 16))
        started = threading.Event()

        def write(writer=writer, started=started):
            with contextlib.suppress(StoreError):
                while True:  # until it is thrown away, however late that is
                    writer.write(b"x", offset=0)
                    started.set()

        thread = threading.Thread(target=write)
        thread.start()
        started.wait()
        writer.abort()
        writer.abort()
        thread.join()
        with pytest.raises(StoreError, match="thrown away"):
            writer.write(b"x", offset=0)

    assert [] == files_below(root.path)
    assert before == open_files()
    assert set() == root._writers


def test_two_writers_of_one_block(root):
    """If a writer outlives a rebalance, it and its successor persist one block once."""
    errors = []
    barrier = threading.Barrier(2)

    def run():
        try:
            barrier.wait()
            keep(root)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    for _ in range(20):
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [] == errors
    assert 1 == len(list(root.path.rglob("*.bin")))
    assert_whole(root.path)


# --- several folders


def test_bad_root_does_not_stop_the_others(tmp_path):
    """A data folder that cannot be used is left out; the others are used."""
    (tmp_path / "file").write_bytes(b"")
    store = BlockStore([tmp_path / "file", tmp_path / "good"], min_free=0)
    store.open()
    keep(store)

    assert store.stored(FILE_ID, 0)
    assert store.is_healthy()
    assert store.set_aside("x", {}, b"").is_relative_to(tmp_path / "good")
    store.close()


def test_no_root(tmp_path):
    """Without a usable data folder the worker does not start."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot use the data folder"):
        BlockStore([tmp_path / "file"], min_free=0).open()


def test_busy_root_stops_all(tmp_path, open_root):
    """If another worker has one of the folders, the user made a mistake: none is used."""
    open_root(tmp_path / "b")
    before = open_files()
    store = BlockStore([tmp_path / "a", tmp_path / "b"], min_free=0)
    with pytest.raises(StoreBusyError):
        store.open()

    assert before == open_files()


def test_over_roots(tmp_path, monkeypatch):
    """A block goes to the folder with the most free space, and is found in any of them."""
    store = BlockStore([tmp_path / "a", tmp_path / "b"], min_free=0)
    store.open()
    room = {store.roots[0]._fd: 100 * MIB, store.roots[1]._fd: 200 * MIB}
    monkeypatch.setattr(dirfd, "free_bytes", room.__getitem__)
    meta = meta_of(10, file_size=20, blocks=2, block_size=10)
    keep(store, b"0123456789", meta=meta)
    room[store.roots[0]._fd] = 300 * MIB
    keep(store, b"abcdefghij", block=1, meta=meta_of(10, start=10, file_size=20, blocks=2))

    assert ["b", "a"] == [
        next(tmp_path.rglob(f"block_000{n}.bin")).relative_to(tmp_path).parts[0] for n in (0, 1)
    ]
    assert store.stored(FILE_ID, 0)
    assert store.stored(FILE_ID, 1)
    assert 500 * MIB == store.free
    store.close()


def test_root_that_fails_later(tmp_path, monkeypatch):
    """A block is found in another folder while one cannot be read; otherwise an error is raised."""
    store = BlockStore([tmp_path / "a", tmp_path / "b"], min_free=0)
    store.open()
    room = {store.roots[0]._fd: 100 * MIB, store.roots[1]._fd: 200 * MIB}
    monkeypatch.setattr(dirfd, "free_bytes", room.__getitem__)
    keep(store)

    def refuse(*_):
        raise StoreError("gone")

    monkeypatch.setattr(store.roots[0], "stored", refuse)
    assert store.stored(FILE_ID, 0)
    with pytest.raises(StoreError):
        store.stored(OTHER_ID, 0)
    monkeypatch.setattr(store.roots[1], "begin", refuse)
    keep(store, file_id=OTHER_ID, meta=meta_of(len(DATA), name="other"))
    assert (tmp_path / "a/other/block_0000.bin").exists()
    monkeypatch.setattr(store.roots[1], "probe", refuse)
    assert not store.is_healthy()
    store.close()


def test_set_aside(root):
    """A bad record is quarantined with its reason, whatever it contains."""
    path = root.set_aside("t-0-7", {"reason": "no <b>\ud800\x1b", "raw": b"\xff"}, b"\0\xff")

    assert root.path / "quarantine" / "t-0-7.json" == path
    assert "no <b>\ud800\x1b" == json.loads(path.read_text())["reason"]
    assert b"\0\xff" == path.with_suffix(".bin").read_bytes()
    assert path == root.set_aside("t-0-7", {"reason": "again"}, b"")
    assert {} == root._folders


def test_quarantine_is_bounded_by_what_lies_there(open_root, monkeypatch):
    """However often the worker starts, the number of quarantined records is limited."""
    monkeypatch.setattr(quarantine, "MAX_RECORDS", 3)
    root = open_root()
    keep(root)
    root.quarantine(("a", "b.csv"), "block_0000", f"{FILE_ID}-0", {})
    for number in range(2):
        root.set_aside(f"t-0-{number}", {}, b"x")
    root.close()
    root = open_root()
    root.set_aside("t-0-1", {"again": True}, b"x")
    root.set_aside("t-0-2", {}, b"x")
    with pytest.raises(StoreFullError, match=r"is full: 3 records of .* remove them"):
        root.set_aside("t-0-3", {}, b"x")
    root.set_aside("t-0-2", {}, b"y")

    (root.path / "quarantine/t-0-0.json").unlink()
    (root.path / "quarantine/t-0-0.bin").unlink()
    monkeypatch.setattr(quarantine, "RESCAN_SECONDS", 0)
    root.set_aside("t-0-3", {}, b"x")
    assert 8 == len(list((root.path / "quarantine").iterdir()))


def test_quarantine_is_bounded_in_bytes(root, monkeypatch):
    """Quarantined records take limited space, counted in whole blocks of the volume."""
    monkeypatch.setattr(quarantine, "MAX_BYTES", 100 * KIB)
    for number in range(30):
        with contextlib.suppress(StoreFullError):
            root.set_aside(f"t-0-{number}", {}, b"x")

    used = sum(p.stat().st_blocks * 512 for p in (root.path / "quarantine").iterdir())
    assert 90 * KIB < used <= 108 * KIB


def test_quarantine_keeps_the_reserve(root, monkeypatch):
    """A quarantined record uses no space that must stay free."""
    free = 100 * KIB
    monkeypatch.setattr(dirfd, "free_bytes", lambda _fd: free)
    root.free_space.min_free = 100 * KIB
    with pytest.raises(StoreFullError, match="disk full"):
        root.set_aside("t-0-1", {}, b"x")

    root.free_space.min_free = 50 * KIB
    assert root.set_aside("t-0-1", {}, b"x").exists()


def test_metadata_round_trip():
    """Metadata that are written and read again are equal."""
    assert block_file(DATA) == metadata.decode_block(block_file(DATA).encode())
    file = metadata.file_of(FILE_ID, meta_of(5))
    assert file == metadata.decode_file(file.encode())
    assert filenames.folder_parts(file.name) == ("a", "b.csv")
    assert Path("block_0007.bin") == Path(metadata.bin_name(7, 10_000))


# --- how much lies there


def test_kept(open_root):
    """Stored blocks are counted when the folder is opened, and when one is persisted or lost."""
    root = open_root()
    assert (0, 0) == root.kept.counts
    keep(root)
    assert (1, len(DATA)) == root.kept.counts
    keep(root)  # once more: it is there
    assert (1, len(DATA)) == root.kept.counts
    root.close()

    root = open_root()
    assert (1, len(DATA)) == root.kept.counts
    (bin_,) = root.path.rglob("block_*.bin")
    bin_.write_bytes(b"x")
    keep(root)  # a bad one is replaced
    assert (1, len(DATA)) == root.kept.counts
    root.kept.remove(len(DATA))
    root.kept.remove(len(DATA))
    assert (0, 0) == root.kept.counts
