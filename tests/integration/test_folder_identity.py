"""A data folder has an identity, and a worker notices when the one that it has is not there."""

import contextlib
import errno
import json
import os

import pytest

from streamapp.errors import StoreError
from streamapp.store import BlockStore, dirfd
from streamapp.store.identity import IDENTITY
from tests.disk import Disk
from tests.integration.blocks import keep_file


PLAIN = {"size": 10, "block_size": 10}


@contextlib.contextmanager
def opened(*paths):
    """Give the store of a worker that runs on *paths*."""
    store = BlockStore(paths, min_free=0)
    store.open()
    try:
        yield store
    finally:
        store.close()


def test_identity_stays(tmp_path):
    """A folder keeps its identity over restarts and moves; another folder has another one."""
    with opened(tmp_path / "a", tmp_path / "b") as store:
        first, second = store.identities
        store.roots[0].note_start("5" * 32)
    (tmp_path / "a").rename(tmp_path / "c")
    with opened(tmp_path / "c", tmp_path / "a") as store:
        assert first == store.identities[0]
        assert "5" * 32 == store.roots[0].last_start
        assert store.identities[1] not in {first, second, ""}


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format":1,"folder":""}', b"\xff"])
def test_damaged_identity(tmp_path, damage):
    """An identity that cannot be read is replaced by a new one, which stays."""
    with opened(tmp_path / "a") as store:
        first = store.identities
    (tmp_path / "a" / IDENTITY).write_bytes(damage)
    with opened(tmp_path / "a") as store:
        second = store.identities
    assert first != second
    with opened(tmp_path / "a") as store:
        assert second == store.identities


def test_identity_is_durable(tmp_path, monkeypatch):
    """The identity is durable before a block can be there: its folder is synced after its name."""
    disk = Disk(tmp_path, monkeypatch)
    with opened(tmp_path / "a"):
        kinds = disk.kinds
    assert kinds[kinds.index("rename") - 1 :] == ["fsync", "rename", "fsync"]


def test_full_disk_gives_no_identity_and_opens(tmp_path, monkeypatch):
    """A volume without space for the identity is used nevertheless."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(dirfd, "write_durably", full)
    with opened(tmp_path / "a") as store:
        assert 32 == len(store.identities[0])


def test_identity_is_no_name_for_a_file(tmp_path):
    """A file that is called like the identity gets a folder of another name."""
    with opened(tmp_path / "a") as store:
        keep_file(store, IDENTITY, **PLAIN)
        assert json.loads((tmp_path / "a" / IDENTITY).read_bytes())["folder"] == store.identities[0]


def test_stored_block_says_its_folder(tmp_path):
    """A stored block names its data folder, also after the folder got a new identity."""
    with opened(tmp_path / "a") as store:
        file_id = keep_file(store, "f", **PLAIN)
        assert store.identities[0] == store.stored(file_id, 0).folder
    (tmp_path / "a" / IDENTITY).unlink()
    with opened(tmp_path / "a") as store:
        assert store.identities[0] == store.stored(file_id, 0).folder


def move_away(path):
    """Leave nothing at *path*."""
    path.rename(path.with_name("elsewhere"))


def replace_by_an_empty_one(path):
    """Leave an empty folder at *path*."""
    move_away(path)
    path.mkdir()


@pytest.mark.parametrize("harm", [move_away, replace_by_an_empty_one])
def test_moved_while_it_runs(tmp_path, harm):
    """A folder that was moved takes nothing, says nothing is stored, and works when it is back."""
    path = tmp_path / "a"
    with opened(path) as store:
        file_id = keep_file(store, "f", **PLAIN)
        harm(path)
        said = store.misplaced()
        assert [store.identities[0]] == list(said)
        assert str(path) in said[store.identities[0]]
        assert not store.is_healthy()
        with pytest.raises(StoreError, match="data folder"):
            keep_file(store, "g", **PLAIN)
        with pytest.raises(StoreError, match="data folder"):
            store.stored(file_id, 0)
        if path.exists():
            path.rmdir()
        (tmp_path / "elsewhere").rename(path)
        assert {} == store.misplaced()
        assert store.is_healthy()
        assert store.stored(file_id, 0)
        keep_file(store, "g", **PLAIN)


def test_moved_while_a_block_is_written(tmp_path, monkeypatch):
    """A block whose folder is moved away before its end is not persisted until it is back."""
    path = tmp_path / "a"
    with opened(path) as store:
        real, harmed = os.fsync, []

        def fsync(fd):
            if not harmed:
                harmed.append(fd)
                replace_by_an_empty_one(path)
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="data folder"):
            keep_file(store, "f", **PLAIN)
        assert harmed


def test_one_of_two_folders_is_moved(tmp_path):
    """The other data folder of the machine is still used."""
    with opened(tmp_path / "a", tmp_path / "b") as store:
        move_away(tmp_path / "a")
        file_id = keep_file(store, "f", **PLAIN)
        assert store.identities[1] == store.stored(file_id, 0).folder
