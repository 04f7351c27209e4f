"""Deleting a good block: a crash at any step leaves a whole block, or none."""

import contextlib
import os

import pytest

from streamapp.store.discard import discard
from tests.disk import Crash, Disk


BYTES, METADATA = "block_0000.bin", "block_0000_metadata.json"
STEPS = 6


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk that fails where a test wants it, and loses what was not fsynced."""
    return Disk(tmp_path, monkeypatch)


def begin(disk):
    """Put a block on the disk, durably; return the descriptor of its folder."""
    folder = os.open(disk.top, os.O_RDONLY)
    for name in (BYTES, METADATA):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=folder)
        os.fsync(file)
        os.close(file)
    os.fsync(folder)
    disk.calls.clear()
    return folder


@pytest.mark.parametrize("step", range(1, STEPS + 2))
def test_every_crash(disk, step):
    """After a crash, with the power or without, bytes and metadata are both there or both not."""
    folder = begin(disk)
    disk.fail_at(step, Crash)
    with contextlib.suppress(Crash):
        discard(folder, "block_0000")
    os.close(folder)

    for left in ({path.name for path in disk.top.iterdir()}, set(disk.after_power_loss())):
        if METADATA in left:
            assert {BYTES} == {BYTES} & left or any(name.endswith(".part") for name in left)
        else:
            assert BYTES not in left
    assert step <= STEPS or set() == left


def test_order(disk):
    """Each step is durable before the next one, in this order."""
    folder = begin(disk)
    discard(folder, "block_0000")
    os.close(folder)

    part = f"{BYTES}.discarded.part"
    expected = [("rename", part), ("unlink", METADATA), ("unlink", part)]
    folder_sync = ("fsync", disk.top.name)
    assert [call for step in expected for call in (step, folder_sync)] == disk.calls
